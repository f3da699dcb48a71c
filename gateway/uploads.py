"""How many files an org uploads at the same time, in this process: each one holds a part of its file in memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from events.errors import LimitExceededError

RETRY_AFTER_S = 5.0


class Uploads:
    """The uploads under way, by org."""

    def __init__(self, per_org_max: int) -> None:
        self._per_org_max = per_org_max
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def one_more(self, org_id: str) -> Iterator[None]:
        """While a file comes in. Raises LimitExceededError."""
        if self._under_way[org_id] >= self._per_org_max:
            raise LimitExceededError(
                f"The org uploads {self._per_org_max} files already, the most at the same time.",
                code="limit_uploads",
                limit=self._per_org_max,
                retry_after_s=RETRY_AFTER_S,
            )
        self._under_way[org_id] += 1
        try:
            yield
        finally:
            self._under_way[org_id] -= 1
            if not self._under_way[org_id]:
                del self._under_way[org_id]
