"""The steps that need the whole batch, on a large one, in step processes: by reference, in order, to groups."""

from services.ingest.config import CHUNK_ROWS
from tests.system.client import Org
from tests.system.test_batches import uploaded

ROWS = 2 * CHUNK_ROWS + 500
CAST = {"casts": [{"field": "amount", "to": "decimal"}, {"field": "id", "to": "integer"}]}


def export(changed: int = 0) -> str:
    """A CSV file; the first rows have other amounts when `changed`, and the last one is gone."""
    amounts = (row % 100 + (1 if row < changed else 0) for row in range(ROWS - (1 if changed else 0)))
    lines = (f"{ROWS - row},team {row % 7},{amount}.10" for row, amount in enumerate(amounts))
    return "\n".join(["id,team,amount", *lines]) + "\n"


async def finished(org: Org, content: str, *steps: dict) -> tuple[dict, list[dict]]:
    """The run of these steps over a file, and its step results."""
    made = await uploaded(org, await org.blueprint(*steps), content)
    run = await org.ended(made, wait_s=60)
    return run, await org.steps(made, run["last_position"])


async def rows(org: Org, run: dict) -> list[dict]:
    page = await org.call("results/get", {"run_id": run["run_id"], "limit": 10})
    return page["records"]


async def test_steps_over_a_whole_batch(system, org_factory):
    org: Org = await org_factory()
    cast = {"key": "cast_types", "config": CAST}
    asked = {"unique": [["id"]], "fields": [{"field": "amount", "pattern": "^[0-9]+[.]10$"}], "max_rows": ROWS}
    quality = {"key": "assert_quality", "config": asked}
    top = {"key": "sort_limit", "config": {"keys": [{"field": "id"}], "limit": CHUNK_ROWS + 1}}
    first, results = await finished(org, export(), cast, quality, top)
    assert first["status"] == "succeeded", first
    assert [step["output"]["rows"] for step in results] == [ROWS, ROWS, ROWS, CHUNK_ROWS + 1]
    assert results[2]["report"]["passed"] is True
    assert [row["id"] for row in await rows(org, first)] == list(range(1, 11))

    before, _ = await finished(org, export(), cast)
    diff = {"key": "diff_snapshot", "config": {"run_id": before["run_id"], "key": ["id"]}}
    compared, results = await finished(org, export(changed=3), cast, diff)
    assert compared["status"] == "succeeded", compared
    told = results[-1]["report"]
    assert [told[change] for change in ("added", "removed", "changed", "unchanged")] == [0, 1, 3, ROWS - 4]
    found = await rows(org, compared)
    assert [(row["id"], row["change"]) for row in found[-2:]] == [(ROWS - 2, "changed"), (1, "removed")]
    assert found[0]["before"] == {"amount": "0.10"}

    metrics = [
        {"function": "sum", "field": "amount", "into": "total"},
        {"function": "min", "field": "id", "into": "lowest"},
    ]
    grouped = {"key": "aggregate", "config": {"group_by": ["team"], "metrics": metrics}}
    merge = {
        "key": "merge_records",
        "config": {"cluster_field": "team", "rules": {"amount": {"rule": "sum"}}, "size_field": "n"},
    }
    sums, _ = await finished(org, export(), cast, grouped)
    merged, _ = await finished(org, export(), cast, merge)
    expected = [sum(row % 100 * 10 + 1 for row in range(team, ROWS, 7)) for team in range(7)]
    for run, field in ((sums, "total"), (merged, "amount")):
        found = await rows(org, run)
        assert [row["team"] for row in found] == [f"team {team}" for team in range(7)]
        assert [row[field] for row in found] == [f"{total // 10}.{total % 10}0" for total in expected]
    assert sum(row["n"] for row in found) == ROWS


async def test_a_batch_that_is_not_as_it_must_be_ends_its_run_with_the_figures(system, org_factory):
    org: Org = await org_factory()
    quality = {"key": "assert_quality", "config": {"unique": [["team"]], "max_rows": 10}}
    run, results = await finished(org, export(), quality)
    assert run["status"] == "failed"
    assert results[-1]["error"]["code"] == "quality_failed"
    message = results[-1]["error"]["message"]
    assert f"max_rows: the batch has {ROWS} rows, the limit is 10" in message
    assert f"unique of 'team': {ROWS - 7} of {ROWS}" in message
