"""Which rows of two runs differ, in the order of their ids: counted, and a page of them."""

import tracemalloc

import numpy as np
import pytest

from gateway.exports.diff import _in_order


@pytest.mark.parametrize("seed", range(5))
def test_a_page_is_what_sorting_all_rows_gives(seed: int) -> None:
    random = np.random.default_rng(seed)
    old, new = (np.sort(random.choice(200, size, replace=False)) for size in (120, 90))
    common = np.intersect1d(old, new)
    mask = random.random(len(common)) < 0.5
    differs = {"a": mask & (random.random(len(common)) < 0.7)}
    differs["b"] = mask & ~differs["a"]
    rows = [(row, "added") for row in set(new.tolist()) - set(old.tolist())]
    rows += [(row, "removed") for row in set(old.tolist()) - set(new.tolist())]
    rows += [(row, "changed") for row in common[mask].tolist()]
    rows.sort()
    for page in (slice(0, 1000), slice(0, 7), slice(30, 37), slice(len(rows), len(rows) + 5)):
        counts, found = _in_order(old, new, common, differs, page)
        assert found == rows[page]
    assert counts == {kind: sum(change == kind for _, change in rows) for kind in ("added", "changed", "removed")}


def test_runs_that_differ_in_every_row_take_a_few_numbers_a_row() -> None:
    rows = 500_000
    ids = np.arange(rows)
    tracemalloc.start()
    try:
        counts, found = _in_order(ids, ids, ids, {"a": np.ones(rows, bool)}, slice(rows - 2, rows))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (counts["changed"], found) == (rows, [(rows - 2, "changed"), (rows - 1, "changed")])
    assert peak_bytes < 64 * rows
