"""The pure tree against a naive recursive definition, and the known vectors of RFC 6962's reference implementation."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.audit import merkle
from events.audit.merkle import CompactRange

# Of google/certificate-transparency's merkletree tests: eight leaves and the root at each size.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
HASHES = [merkle.leaf_hash(leaf) for leaf in LEAVES]
SIZES = st.integers(1, 1200)


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = naive_split(len(hashes))
    return hashlib.sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def naive_split(size: int) -> int:
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def naive_path(index: int, hashes: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(hashes) == 1:
        return []
    k = naive_split(len(hashes))
    if index < k:
        return [*naive_path(index, hashes[:k]), naive_root(hashes[k:])]
    return [*naive_path(index - k, hashes[k:]), naive_root(hashes[:k])]


def naive_consistency(old: int, hashes: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2."""
    if old == len(hashes):
        return [] if whole else [naive_root(hashes)]
    k = naive_split(len(hashes))
    if old <= k:
        return [*naive_consistency(old, hashes[:k], whole), naive_root(hashes[k:])]
    return [*naive_consistency(old - k, hashes[k:], False), naive_root(hashes[:k])]


def many(count: int, salt: int = 0) -> list[bytes]:
    return [merkle.leaf_hash(b"%d %d" % (salt, number)) for number in range(count)]


def node_of(hashes: list[bytes]):
    return lambda height, index: naive_root(hashes[index << height : (index + 1) << height])


@pytest.mark.parametrize("size", range(9))
def test_known_roots(size: int) -> None:
    assert naive_root(HASHES[:size]) == merkle.tree_hash(HASHES[:size]) == ROOTS[size]
    growing = CompactRange()
    for leaf in HASHES[:size]:
        growing.append(leaf)
    assert growing.root() == ROOTS[size]


@settings(max_examples=40, deadline=None)
@given(SIZES, st.data())
def test_inclusion_is_what_the_rfc_says(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes = many(size)
    path = merkle.proof(merkle.inclusion_ranges(index, size), node_of(hashes))
    assert path == naive_path(index, hashes)
    root = naive_root(hashes)
    assert merkle.root_of_inclusion(index, size, hashes[index], path) == root
    assert merkle.root_of_inclusion(index, size, many(1, salt=1)[0], path) != root
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        wrong = [*path[:at], many(1, salt=2)[0], *path[at + 1 :]]
        assert merkle.root_of_inclusion(index, size, hashes[index], wrong) != root
        for other in (path[:-1], [*path, path[0]]):
            with pytest.raises(ValueError, match="does not have"):
                merkle.root_of_inclusion(index, size, hashes[index], other)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.data())
def test_consistency_is_what_the_rfc_says(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    hashes = many(size)
    path = merkle.proof(merkle.consistency_ranges(old, size), node_of(hashes))
    assert path == naive_consistency(old, hashes)
    old_root, root = naive_root(hashes[:old]), naive_root(hashes)
    assert merkle.is_consistent(old, size, old_root, root, path)
    rewritten = hashes[:-1] if old == size else [*many(old, salt=1), *hashes[old:]]
    assert not merkle.is_consistent(old, size, naive_root(rewritten[:old]), root, path)
    assert not merkle.is_consistent(old, size, old_root, naive_root(many(size, salt=1)), path)
    assert not merkle.is_consistent(old, size, old_root, root, [*path, root])
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        assert not merkle.is_consistent(old, size, old_root, root, [*path[:at], root, *path[at + 1 :]])


def test_nothing_is_the_beginning_of_everything() -> None:
    assert merkle.consistency_ranges(0, 7) == []
    assert merkle.is_consistent(0, 7, merkle.EMPTY_ROOT, ROOTS[7], [])
    assert not merkle.is_consistent(0, 7, ROOTS[1], ROOTS[7], [])
    assert not merkle.is_consistent(8, 7, ROOTS[8], ROOTS[7], [])
    for wrong in (lambda: merkle.consistency_ranges(8, 7), lambda: merkle.inclusion_ranges(7, 7)):
        with pytest.raises(ValueError):
            wrong()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 700), st.integers(0, 700), st.integers(0, 700))
def test_ranges_merge_to_the_tree(first: int, second: int, third: int) -> None:
    a, b, end = sorted((first, second, third))
    hashes = many(end)
    parts = []
    for begin, stop in ((0, a), (a, b), (b, end)):
        part = CompactRange(begin)
        for leaf in hashes[begin:stop]:
            part.append(leaf)
        assert part.hashes == [node_of(hashes)(*node) for node in merkle.nodes_of(begin, stop)]
        parts.append(part)
    whole = parts[0].copy()
    whole.merge(parts[1])
    whole.merge(parts[2])
    assert whole.root() == naive_root(hashes)
    assert CompactRange(a, b, parts[1].hashes).hashes == parts[1].hashes


def test_ranges_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="does not follow"):
        CompactRange(0).merge(CompactRange(1))
    with pytest.raises(ValueError, match="not those of the range"):
        CompactRange(0, 3, HASHES[:1])
    with pytest.raises(ValueError, match="only a range from leaf 0"):
        CompactRange(1).root()
    with pytest.raises(ValueError, match="no subtree of height 8"):
        CompactRange(1).push(8, HASHES[0])
    with pytest.raises(ValueError, match="no whole number"):
        merkle.split(b"x")


def test_appending_tells_of_full_tiles() -> None:
    size = merkle.TILE_LEAVES * 2 + 5
    hashes, growing = many(size), CompactRange()
    found = [(number, growing.append(leaf)) for number, leaf in enumerate(hashes)]
    assert [(number, tiles) for number, tiles in found if tiles] == [
        (255, [naive_root(hashes[:256])]),
        (511, [naive_root(hashes[256:512])]),
    ]


@settings(max_examples=30, deadline=None)
@given(SIZES)
def test_tiles_are_leaves_of_the_same_tree(size: int) -> None:
    """A tile's proof is the inclusion proof of one leaf among the tiles, of which the last may be smaller."""
    hashes = many(size)
    roots = [naive_root(hashes[at : at + 256]) for at in range(0, size, 256)]
    assert merkle.tree_hash(roots) == naive_root(hashes)
    for tile, root in enumerate(roots):
        path = naive_path(tile, roots)
        assert merkle.root_of_inclusion(tile, len(roots), root, path) == naive_root(hashes)
