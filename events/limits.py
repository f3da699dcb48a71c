"""What an org may ask of the platform in a time: the platform's defaults, and the operator's word for one org."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class Limits(BaseModel):
    """Limits of an org and of each of its tokens; None: the platform's default.

    Rates hold for each gateway process, open runs for the whole system. A session counts as a token of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    org_requests_per_s: Rate | None = None
    org_bytes_per_s: Rate | None = None
    """Of request bodies."""
    org_rows_per_s: Rate | None = None
    """Records of submissions."""
    org_open_runs: Count | None = None
    """Runs that have not ended."""
    token_requests_per_s: Rate | None = None
    token_bytes_per_s: Rate | None = None
    token_rows_per_s: Rate | None = None
    user_open_runs: Count | None = None
    """Runs that have not ended and that one user started, whichever token it used."""

    def merged(self, defaults: "Limits") -> "Limits":
        """These limits, and those of `defaults` where nothing is said."""
        return defaults.model_copy(update=self.model_dump(exclude_none=True))


NO_LIMITS = Limits()
"""Nothing of the org's own: the platform's defaults."""
