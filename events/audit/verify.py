"""Verifying an export offline: what was altered, removed, inserted or moved, and where (docs/audit-format.md).

One pass in bounded memory: the hashes of one tile and, once something is wrong, the digests of its lines. What is
trusted is a checkpoint that the auditor got by another way, or a signature; nothing of the export itself.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from events.audit import merkle
from events.audit.checkpoint import SignedCheckpoint
from events.audit.export import FORMAT, SELECTIONS
from events.audit.findings import FoundError, Report
from events.audit.known import KnownCheckpoints, check_signature, read_known
from events.audit.merkle import HASH_BYTES, TILE_HEIGHT, TILE_LEAVES
from events.audit.note import Verifier, from_base64
from events.errors import ProofError
from events.subjects import SALT_BYTES

NUMBER_MAX = 2**53 - 1
LOOK_AHEAD_MAX = 2 * TILE_LEAVES
"""Lines that are read on to tell what became of the decision that is missing at its place."""

_WRONG_SHAPE = (KeyError, TypeError, ValueError, AttributeError, ProofError)


def verify(
    lines: Iterable[bytes],
    *,
    checkpoint: str | None,
    key: Verifier | None,
    previous: Sequence[str] = (),
    each: Callable[[Mapping[str, Any]], object] = lambda _: None,
) -> Report:
    """Verify the lines of an export. Never raises for what they hold: the report has the first finding.

    `checkpoint` is a signed note that is trusted, `key` whose signatures are. `previous` are notes of earlier sizes.
    `each` is given every decision's line once it is proved; believe them when the report is there and has no finding.
    """
    report = Report()
    try:
        _Verification(report, lines, key, each).run(checkpoint, previous)
    except FoundError as found:
        report.finding = found.finding
    return report


class _Verification:
    """The state of one pass."""

    def __init__(
        self, report: Report, lines: Iterable[bytes], key: Verifier | None, each: Callable[[Mapping[str, Any]], object]
    ) -> None:
        self._report = report
        self._each = each
        self._records = self._numbered(lines)
        self._key = key
        self._line = 0
        self._complete = False
        self._next = 0
        self._position = 0
        self._tile = -1
        self._hashes = b""
        self._versions: dict[str, int] = {}
        self._ended = False

    def run(self, checkpoint: str | None, previous: Sequence[str]) -> None:
        """Raises FoundError."""
        try:
            self._header(next(self._records, {}), checkpoint, previous)
            for record in self._records:
                if self._ended:
                    raise self._malformed("there is something after the end")
                if "index" in record:
                    self._decision(record)
                elif "tile" in record:
                    self._begin_tile(record)
                else:
                    self._end(record)
        except _WRONG_SHAPE as error:
            raise self._malformed(f"it cannot be read ({error!r})") from error
        if not self._ended:
            raise FoundError(
                "truncated",
                f"The export breaks off after line {self._line}: its last line is missing, and from index {self._next} "
                "on every decision.",
                index=self._next,
                line=self._line,
            )
        self._report.checkpoints_compared = self._known.compared

    def _numbered(self, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        for line in lines:
            self._line += 1
            record = orjson.loads(line)
            if type(record) is not dict:
                raise self._malformed("it is no JSON object")
            if orjson.dumps(record) != line.removesuffix(b"\n"):
                raise self._malformed("it is no compact JSON, or has a name twice: readers could differ about it")
            yield record

    def _header(self, record: dict[str, Any], checkpoint: str | None, previous: Sequence[str]) -> None:
        if record.get("format") != FORMAT:
            raise self._malformed(f"the file does not begin with the header of a {FORMAT!r}")
        signed = SignedCheckpoint.parse(record["checkpoint"])
        self._own = own = signed.checkpoint
        report, self._selection = self._report, record["selection"]
        report.org_id, report.size, report.root = own.org_id, own.size, b64encode(own.root).decode()
        report.selection = self._selection
        if record["org_id"] != own.org_id:
            raise FoundError(
                "wrong_org", f"The export is of the org {record['org_id']}, its checkpoint of {own.org_id}.", line=1
            )
        check_signature(signed, self._key, "The export's checkpoint")
        report.signature_checked = self._key is not None
        self._prefix = f"events.{own.org_id}."
        self._complete = record["first_index"] is not None
        if self._complete:
            self._next, report.first_index, report.end_index = record["first_index"], *_indexes(record, own.size)
            report.whole = (report.first_index, report.end_index) == (0, own.size)
        if self._selection["kind"] not in SELECTIONS:
            raise self._malformed(f"there is no selection {self._selection['kind']!r}")
        if self._selection["kind"] == "all" and not report.whole:
            raise FoundError(
                "truncated",
                f"The export says that it has all of {own.size} decisions, and gives the indexes "
                f"{report.first_index} to {report.end_index}.",
                index=report.end_index,
                line=1,
            )
        trusted = [] if checkpoint is None else [read_known(checkpoint, self._key).checkpoint]
        earlier = [read_known(note, self._key).checkpoint for note in previous]
        self._known = KnownCheckpoints([*trusted, *earlier], own)
        proofs = {item["size"]: _hashes(item["path"]) for item in record["consistency"]}
        if not report.whole:
            self._known.compare_by_proofs(proofs)
        report.proved_size = own.size if self._key is not None else max((one.size for one in trusted), default=0)

    def _begin_tile(self, record: dict[str, Any]) -> None:
        tile, hashes, size = _number(record["tile"]), from_base64(record["hashes"], "hashes"), self._own.size
        if self._complete:
            if self._next & (TILE_LEAVES - 1) and self._tile >= 0:
                raise self._removed(None)
            if tile > self._next >> TILE_HEIGHT:
                raise self._removed(None)
        if tile <= self._tile or tile < self._next >> TILE_HEIGHT:
            raise FoundError(
                "reordered",
                f"Line {self._line} has tile {tile} after tile {self._tile}.",
                index=tile * TILE_LEAVES,
                line=self._line,
            )
        first, tiles = tile * TILE_LEAVES, -(-size // TILE_LEAVES)
        if tile >= tiles or len(hashes) != min(TILE_LEAVES, size - first) * HASH_BYTES:
            raise self._malformed(f"a history of {size} decisions has no such tile {tile}")
        root = merkle.tree_hash(merkle.split(hashes))
        if merkle.root_of_inclusion(tile, tiles, root, _hashes(record["path"])) != self._own.root:
            raise FoundError(
                "proof",
                f"The hashes of the indexes {first} to {first + len(hashes) // HASH_BYTES - 1} (line {self._line}) do "
                "not lead to the checkpoint's root: one of them, or their proof, was altered.",
                index=first,
                line=self._line,
            )
        self._tile, self._hashes = tile, hashes
        if self._report.whole:
            self._known.grow(hashes, root)

    def _decision(self, record: dict[str, Any]) -> None:
        index, position, subject = record["index"], record["position"], record["subject"]
        if index is not None:
            _number(index)
        leaf = _leaf_hash(record)
        expected = self._next if self._complete else index
        at = (expected or 0) & (TILE_LEAVES - 1)
        if (
            index != expected
            or index is None
            or index < self._next
            or index >> TILE_HEIGHT != self._tile
            or leaf != self._hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]
            or not subject.startswith(self._prefix)
        ):
            raise self._explained(record, leaf)
        if not self._complete:
            self._check_history(subject, index, position)
        if "opened" in record and not _is_opened(record):
            raise FoundError(
                "opening",
                f"What the decision at position {position} (line {self._line}) is said to say is not what was sealed "
                "in it.",
                index=index,
                position=position,
                line=self._line,
            )
        self._each(record)
        self._next = index + 1
        self._position = position
        self._report.decisions += 1

    def _check_history(self, subject: str, index: int, position: int) -> None:
        """In what only a run's or a submission's decisions are of, each history is there from its beginning."""
        selection = self._selection
        if selection["kind"] not in ("run", "submission"):
            return
        _, _, kind, thing_id, version, _ = subject.split(".", 5)
        history, expected = f"{kind} {thing_id}", self._versions.get(f"{kind} {thing_id}", 0) + 1
        if selection["kind"] == "run" and thing_id != selection["run_id"]:
            raise FoundError(
                "inserted", f"Position {position} is of {history}, not of the run.", index=index, position=position
            )
        if int(version) != expected:
            raise FoundError(
                "removed",
                f"Version {expected} of {history} is missing before version {version} (position {position}).",
                line=self._line,
            )
        self._versions[history] = expected

    def _end(self, record: dict[str, Any]) -> None:
        if record["end"] is not True or _number(record["decisions"]) != self._report.decisions:
            raise self._malformed(f"{self._report.decisions} decisions came before it")
        if self._complete and self._next != self._report.end_index:
            raise self._removed(None)
        self._ended = True

    def _explained(self, record: dict[str, Any], leaf: bytes) -> FoundError:
        """Why a decision is not the one that belongs here."""
        index, position, subject, here = record["index"], record["position"], record["subject"], self._line
        where = {"position": position, "line": here}
        what = f"The decision at position {position} (line {here})"
        if not subject.startswith(self._prefix):
            return FoundError("wrong_org", f"{what} is not of this org: {subject}.", index=index, **where)
        if index is None:
            return FoundError("inserted", f"{what} was inserted: the history has no such leaf.", **where)
        wanted = self._next if self._complete else index
        if not self._tile * TILE_LEAVES <= wanted < self._tile * TILE_LEAVES + len(self._hashes) // HASH_BYTES:
            if not self._complete and wanted >= self._next:
                return self._malformed(f"the hashes of index {wanted} are missing before it")
            return FoundError("inserted", f"{what} was inserted: there are enough of its tile.", index=wanted, **where)
        hashes = merkle.split(self._hashes)
        following = set(self._following())
        expected, first = hashes[wanted & (TILE_LEAVES - 1)], self._tile * TILE_LEAVES
        found = first + hashes.index(leaf) if leaf in hashes else None
        if found is None and expected not in following:
            return FoundError(
                "altered", f"{what} was altered: it is not the one of index {wanted}.", index=wanted, **where
            )
        if found is None or found < self._next:
            return FoundError("inserted", f"{what} was inserted before index {wanted}.", index=wanted, **where)
        if found == wanted:
            return FoundError("altered", f"{what} has another number than its index, {found}.", index=found, **where)
        if expected in following or not self._complete:
            return FoundError("reordered", f"{what} belongs to index {found}, not to {wanted}.", index=wanted, **where)
        return self._removed(position, found, here)

    def _following(self) -> Iterator[bytes]:
        """The leaf hashes of the lines that follow in this tile."""
        for record, _ in zip(self._records, range(LOOK_AHEAD_MAX), strict=False):
            if "index" not in record:
                return
            yield _leaf_hash(record)

    def _removed(self, before: int | None, found: int | None = None, line: int | None = None) -> FoundError:
        """The decision at the next index is missing, and those after it up to `found`, which stands at `before`."""
        upto = "" if found is None or found == self._next + 1 else f" to {found - 1}"
        place = f"after position {self._position}" + ("" if before is None else f" and before position {before}")
        line = self._line if line is None else line
        return FoundError(
            "removed",
            f"The decision of index {self._next}{upto} was removed: it stood {place} (line {line}).",
            index=self._next,
            position=self._position + 1 if before == self._position + 2 else None,
            line=line,
        )

    def _malformed(self, why: str) -> FoundError:
        return FoundError("malformed", f"Line {self._line}: {why}.", line=self._line)


def _leaf_hash(record: dict[str, Any]) -> bytes:
    """The leaf hash of a decision's line; its bytes are those of events/leaf.py. Raises what a wrong shape raises.

    A line feed in the subject would let a body begin elsewhere than where it was signed to begin.
    """
    position, subject = _number(record["position"]), record["subject"]
    if "\n" in subject:
        raise ValueError("a subject has no line feed")
    if ("body" in record) is ("body64" in record):
        raise ValueError("a decision has one body")
    content = record["body"].encode() if "body" in record else from_base64(record["body64"], "body64")
    return sha256(b"\x00%d\n%s\n%s" % (position, subject.encode(), content)).digest()


def _is_opened(record: dict[str, Any]) -> bool:
    """Whether salt and text are those that the proved body binds. Raises what a wrong shape raises."""
    salt, text = from_base64(record["opened"]["salt"], "the salt"), record["opened"]["text"]
    sealed = orjson.loads(record["body"])["sealed"]
    return len(salt) == SALT_BYTES and sha256(salt + text.encode()).hexdigest() == sealed


def _number(value: Any) -> int:
    """An integer that every reader of JSON reads as the same (RFC 8259, 6); a bool is none. Raises TypeError."""
    if type(value) is not int or abs(value) > NUMBER_MAX:
        raise TypeError(f"{value!r} is no integer below 2^53")
    return value


def _indexes(record: dict[str, Any], size: int) -> tuple[int, int]:
    first, end = _number(record["first_index"]), _number(record["end_index"])
    if not 0 <= first <= end <= size:
        raise ValueError(f"a history of {size} decisions has no indexes {first} to {end}")
    return first, end


def _hashes(texts: Sequence[str]) -> list[bytes]:
    if type(texts) is not list:
        raise TypeError("a proof is a list of hashes")
    found = [from_base64(text, "a hash") for text in texts]
    if any(len(one) != HASH_BYTES for one in found):
        raise ValueError(f"a hash has {HASH_BYTES} bytes")
    return found
