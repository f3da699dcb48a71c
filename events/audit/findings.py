"""What a verification says: that all is well, or what is not, and where."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal[
    "altered", "removed", "inserted", "reordered", "wrong_org", "opening",  # a decision
    "truncated", "rewritten",  # the history
    "signature", "checkpoint", "proof", "malformed",  # what it is proved by
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """The first thing that is wrong; `index` in the org's history from 0, `position` in the log, `line` of the file."""

    kind: Kind
    message: str
    index: int | None = None
    position: int | None = None
    line: int | None = None


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found: `finding` is None when everything holds.

    `decisions` were compared, of a history of `size`; `whole` when those are all. Up to `proved_size` it rests
    on a trusted checkpoint or on a signature that was checked.
    """

    org_id: str = ""
    size: int = 0
    root: str = ""
    decisions: int = 0
    first_index: int | None = None
    end_index: int | None = None
    whole: bool = False
    signature_checked: bool = False
    proved_size: int = 0
    checkpoints_compared: list[int] = field(default_factory=list)
    selection: dict[str, Any] = field(default_factory=dict)
    finding: Finding | None = None

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return self.finding is None

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return {"ok": self.ok, **asdict(self)}


class FoundError(Exception):
    """Ends a verification with its finding."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        index: int | None = None,
        position: int | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.finding = Finding(kind, message, index, position, line)
