"""Checkpoints that an auditor has, compared with the history of an export: is it the same, only longer?"""

from collections.abc import Mapping, Sequence

from events.audit import merkle
from events.audit.checkpoint import Checkpoint, SignedCheckpoint
from events.audit.findings import FoundError
from events.audit.merkle import TILE_HEIGHT, TILE_LEAVES, CompactRange
from events.audit.note import Verifier
from events.errors import ProofError


def read_known(text: str, key: Verifier | None) -> SignedCheckpoint:
    """A checkpoint that an auditor gives; with a key its signature must hold. Raises FoundError."""
    try:
        found = SignedCheckpoint.parse(text)
    except ProofError as error:
        raise FoundError("checkpoint", f"A checkpoint that was given cannot be read: {error.message}") from error
    check_signature(found, key, f"The checkpoint of size {found.checkpoint.size} that was given")
    return found


def check_signature(signed: SignedCheckpoint, key: Verifier | None, what: str) -> None:
    """Raises FoundError when there is a key, and it did not sign."""
    if key is None:
        return
    try:
        signed.check(key)
    except ProofError as error:
        raise FoundError("signature", f"{what}: {error.message}") from error


class KnownCheckpoints:
    """The known checkpoints of a history, smallest first. `compared` has the sizes that agreed."""

    def __init__(self, known: Sequence[Checkpoint], own: Checkpoint) -> None:
        self._known = sorted(known, key=lambda checkpoint: checkpoint.size)
        self._own = own
        self._tree = CompactRange()
        self.compared: list[int] = []
        for checkpoint in self._known:
            _same_log(checkpoint, own)

    def compare_by_proofs(self, proofs: Mapping[int, Sequence[bytes]]) -> None:
        """With the consistency proofs of the export's header, by the earlier size. Raises FoundError."""
        own = self._own
        for known in self._known:
            path = proofs.get(known.size, None if 0 < known.size < own.size else ())
            if path is None:
                raise FoundError(
                    "checkpoint",
                    f"The export cannot be compared with the checkpoint of size {known.size}: it has only some "
                    f"decisions, and no consistency proof from that size. Export it with --previous-size {known.size}.",
                )
            if not merkle.is_consistent(known.size, own.size, known.root, own.root, path):
                raise self._rewritten(known)
            self.compared.append(known.size)
        self._known = []

    def grow(self, hashes: bytes, root: bytes) -> None:
        """The next tile of the whole history: its leaf hashes and their root. Raises FoundError."""
        leaves = merkle.split(hashes)
        begin, end = self._tree.end, self._tree.end + len(leaves)
        while self._known and self._known[0].size <= end:
            known = self._known.pop(0)
            then = self._tree.copy()
            for leaf in leaves[: known.size - begin]:
                then.append(leaf)
            if then.root() != known.root:
                raise self._rewritten(known)
            self.compared.append(known.size)
        if len(leaves) == TILE_LEAVES:
            self._tree.push(TILE_HEIGHT, root)

    def _rewritten(self, known: Checkpoint) -> FoundError:
        agreed = self.compared[-1] if self.compared else 0
        upto = f"the first {agreed} decisions agree with an earlier checkpoint" if agreed else "no earlier one agrees"
        return FoundError(
            "rewritten",
            f"The history was rewritten: its first {known.size} decisions are not those of the checkpoint of that size "
            f"({known.at.isoformat()}); {upto}. The first that differs is among the indexes {agreed} to "
            f"{known.size - 1}.",
            index=agreed,
        )


def _same_log(known: Checkpoint, own: Checkpoint) -> None:
    """Raises FoundError when one is of another log, or of more decisions than the export's."""
    if known.origin != own.origin:
        raise FoundError("checkpoint", f"The checkpoint is of {known.origin}, and the export is of {own.origin}.")
    if known.size > own.size:
        raise FoundError(
            "truncated",
            f"The history had {known.size} decisions at {known.at.isoformat()} already, and the export's checkpoint "
            f"({own.at.isoformat()}) has {own.size}: it is an older one, or the last {known.size - own.size} were "
            "cut off.",
            index=own.size,
        )
