"""How much of one thing an org does at the same time, in this process: each upload or stream holds memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from events.errors import LimitExceededError

RETRY_AFTER_S = 5.0


class AtOnce:
    """What is under way, by org; `what` it is, in the plural."""

    def __init__(self, what: str, per_org_max: int) -> None:
        self._what = what
        self._per_org_max = per_org_max
        self._under_way: Counter[str] = Counter()

    def enter(self, org_id: str) -> Callable[[], None]:
        """Take a place; call what is returned, once, to leave it. Raises LimitExceededError."""
        if self._under_way[org_id] >= self._per_org_max:
            raise LimitExceededError(
                f"The org has {self._per_org_max} {self._what} under way already, the most at the same time.",
                code=f"limit_{self._what}",
                limit=self._per_org_max,
                retry_after_s=RETRY_AFTER_S,
            )
        self._under_way[org_id] += 1

        def leave() -> None:
            self._under_way[org_id] -= 1
            if not self._under_way[org_id]:
                del self._under_way[org_id]

        return leave

    @contextmanager
    def one_more(self, org_id: str) -> Iterator[None]:
        """A place while it lasts. Raises LimitExceededError."""
        leave = self.enter(org_id)
        try:
            yield
        finally:
            leave()

    def under_way(self, org_id: str) -> int:
        """How many places of the org are taken now."""
        return self._under_way[org_id]
