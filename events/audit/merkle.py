"""Merkle trees as RFC 6962 and RFC 9162 hash them: roots, compact ranges, inclusion and consistency proofs.

A hash is SHA-256, 32 bytes. The tree over `size` leaves splits at the largest power of two below its size. A perfect
subtree is named (height, index): it covers the leaves from `index << height`, 1 << height of them. Pure.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_LEAVES = 1 << TILE_HEIGHT
"""A tile has up to 256 hashes of one height, as in C2SP tlog-tiles."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves (RFC 9162, 2.1.1)."""

Range = tuple[int, int]
"""Leaves from the first number up to and without the second."""
Node = tuple[int, int]
"""(height, index) of a perfect subtree."""

_sha256 = hashlib.sha256


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return _sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two hashes side by side."""
    return _sha256(b"\x01" + left + right).digest()


def split(hashes: bytes) -> list[bytes]:
    """Hashes that stand one after another. Raises ValueError when the last one is not whole."""
    if len(hashes) % HASH_BYTES:
        raise ValueError(f"{len(hashes)} bytes are no whole number of hashes")
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def tree_hash(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; as well over the roots of equal perfect subtrees, of which the last may be smaller."""
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    while len(level) > 1:
        pairs = range(0, len(level) - 1, 2)
        above = [_sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in pairs]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over subtrees that shrink from left to right, as `nodes_of` lists those of a subtree of the tree."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def nodes_of(begin: int, end: int) -> Iterator[Node]:
    """The largest perfect subtrees that the leaves from `begin` up to `end` are made of, from left to right."""
    while begin < end:
        height = (end - begin).bit_length() - 1
        if begin:
            height = min(height, (begin & -begin).bit_length() - 1)
        yield height, begin >> height
        begin += 1 << height


class CompactRange:
    """The leaves from `begin` up to `end`, as the hashes of their largest perfect subtrees: at most 2 log2(size)."""

    def __init__(self, begin: int = 0, end: int | None = None, hashes: Sequence[bytes] = ()) -> None:
        self.begin = begin
        self.end = begin if end is None else end
        self.hashes = list(hashes)
        if len(self.hashes) != sum(1 for _ in nodes_of(self.begin, self.end)):
            raise ValueError(f"{len(self.hashes)} hashes are not those of the range {self.begin} to {self.end}")

    def append(self, leaf: bytes) -> list[bytes]:
        """One more leaf hash. What is returned are the roots of the tiles that it completes, the lowest first."""
        return self.push(0, leaf)

    def push(self, height: int, root: bytes) -> list[bytes]:
        """One more perfect subtree, which must begin where the range ends. Roots of tiles, as of `append`."""
        end, begin, hashes, tiles = self.end, self.begin, self.hashes, []
        if end & ((1 << height) - 1):
            raise ValueError(f"no subtree of height {height} begins at leaf {end}")
        self.end += 1 << height
        while (end >> height) & 1 and ((end >> height) - 1) << height >= begin:
            root = _sha256(b"\x01" + hashes.pop() + root).digest()
            height += 1
            if not height % TILE_HEIGHT:
                tiles.append(root)
        hashes.append(root)
        return tiles

    def merge(self, following: "CompactRange") -> None:
        """The leaves of another range that begins where this one ends."""
        if following.begin != self.end:
            raise ValueError(f"the range from {following.begin} does not follow on {self.end}")
        for (height, _), root in zip(nodes_of(following.begin, following.end), following.hashes, strict=True):
            self.push(height, root)

    def copy(self) -> "CompactRange":
        """Another one that may go its own way."""
        return CompactRange(self.begin, self.end, self.hashes)

    def root(self) -> bytes:
        """The root of the tree; only of a range that begins at 0."""
        if self.begin:
            raise ValueError("only a range from leaf 0 has a root")
        return fold(self.hashes)


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The subtrees whose roots are the inclusion proof of a leaf, in the proof's order (RFC 9162, 2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    begin, end = 0, size
    found: list[Range] = []
    while end - begin > 1:
        middle = begin + _split_at(end - begin)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin = middle
    return found[::-1]


def consistency_ranges(old_size: int, size: int) -> list[Range]:
    """The subtrees whose roots are the consistency proof of two sizes, in the proof's order (RFC 9162, 2.1.4.1)."""
    if not 0 <= old_size <= size:
        raise ValueError(f"a tree of {size} leaves never had {old_size}")
    if old_size in (0, size):
        return []
    begin, end = 0, size
    found: list[Range] = []
    while old_size != end:
        middle = begin + _split_at(end - begin)
        if old_size <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin = middle
    if begin:
        found.append((begin, end))
    return found[::-1]


def proof(ranges: Sequence[Range], node: Callable[[int, int], bytes]) -> list[bytes]:
    """The roots of subtrees of the tree; `node(height, index)` gives those that are perfect."""
    return [fold([node(height, index) for height, index in nodes_of(begin, end)]) for begin, end in ranges]


def root_of_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162, 2.1.3.2). Raises ValueError for another length."""
    if len(path) != len(inclusion_ranges(index, size)):
        raise ValueError(f"the inclusion proof of leaf {index} of {size} does not have {len(path)} hashes")
    at, last, root = index, size - 1, leaf
    for sibling in path:
        if at & 1 or at == last:
            root = node_hash(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        at, last = at >> 1, last >> 1
    return root


def is_consistent(old_size: int, size: int, old_root: bytes, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a consistency proof shows that the older tree is the beginning of the newer (RFC 9162, 2.1.4.2)."""
    if not 0 <= old_size <= size or len(path) != len(consistency_ranges(old_size, size)):
        return False
    if old_size in (0, size):
        return old_root == (root if old_size else EMPTY_ROOT)
    hashes = list(path) if old_size & (old_size - 1) else [old_root, *path]
    at, last = old_size - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = hashes[0]
    for sibling in hashes[1:]:
        if at & 1 or at == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        at, last = at >> 1, last >> 1
    return older == old_root and newer == root


def _split_at(size: int) -> int:
    """The largest power of two below `size`, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)
