"""What was known of runs at an earlier position: the very folds of the read models, over what was decided up to then.

A run that nothing happened to since then is in the read models as it was. For any other, the statement that a fold
would put its rows into the table with is asked for those rows instead: the named SQL runs over them, and no table is
written, not even a temporary one.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from events.errors import UnavailableError
from events.model import Recorded
from projections.base import LIVE_SCHEMA
from projections.queries import work
from projections.queries.history import first_after
from projections.queries.reader import Reader, Row, Scope
from projections.runs import RUNS
from projections.step_results import STEP_RESULTS
from projections.step_results import UPSERT as STEP_RESULTS_UPSERT

POSITION_MAX = 2**63 - 1

_INSERT = re.compile(
    r"\s*INSERT INTO \{schema\}\.\w+(?: AS \w+)? \((?P<columns>[^)]*)\)\s*(?P<rows>SELECT .*?)\s*ON CONFLICT ",
    re.DOTALL,
)
_TABLES = re.compile(rf"{LIVE_SCHEMA}\.(?=(?:{RUNS.view}|{STEP_RESULTS.name})\b)")
"""Which tables are stood in for. What a run verifies is said once, at its beginning, and asked of the live table."""
_PARAMETER = re.compile(r"\$(\d+)")

LAST_BEFORE = """
SELECT position FROM data_engine.event_log
WHERE org_id = $1::uuid AND ($2::uuid IS NULL OR company_id = $2::uuid) AND position < $3
ORDER BY position DESC LIMIT 1
"""


class _Rows(NamedTuple):
    """The rows that an insert would add to an empty table: a common table expression, and its parameters."""

    sql: str
    columns: tuple[Sequence[Any], ...]


async def runs(reader: Reader, scope: Scope, history: Sequence[Recorded]) -> dict[str, Row]:
    """Runs as their histories leave them, by id; decisions of 1..n runs, each from its first one, by position.

    The columns are those of `work.runs_by_id`, and so is what the scope may see.
    """
    run_ids = list({recorded.decision.aggregate_id: None for recorded in history})
    found = await _ask(reader, scope, history, work.RUNS_BY_ID, scope.org_id, scope.company_id, run_ids)
    return {row["run_id"]: row for row in found}


async def step_results(reader: Reader, scope: Scope, history: Sequence[Recorded]) -> list[Row]:
    """The step results of one run as its history leaves them; as `work.step_results`."""
    run_id = history[0].decision.aggregate_id
    return await _ask(reader, scope, history, work.STEP_RESULTS, scope.org_id, scope.company_id, run_id)


async def position_at(reader: Reader, scope: Scope, time: datetime) -> int:
    """The scope's last archived position that was recorded at or before a time; 0 when there is none."""
    after = await first_after(reader, scope, time)
    before = POSITION_MAX if after is None else after
    row = await reader.row(scope, LAST_BEFORE, scope.org_id, scope.company_id, before)
    return 0 if row is None else int(row["position"])


async def _ask(reader: Reader, scope: Scope, history: Sequence[Recorded], query: str, *arguments: Any) -> list[Row]:
    """A named query, over what the history gives instead of the tables. Raises UnavailableError."""
    made = [statement for statement in RUNS.fold(history) if statement.columns]
    if len(made) != 1 or _INSERT.match(made[0].sql) is None:
        raise UnavailableError("The beginning of a run's history cannot be read now; ask again.")
    steps = next(iter(STEP_RESULTS.fold(history)), None)
    of_runs = _rows(RUNS.view, made[0].sql, made[0].columns, len(arguments))
    of_steps = _rows(
        STEP_RESULTS.name,
        STEP_RESULTS_UPSERT,
        steps.columns if steps is not None else None,
        len(arguments) + len(of_runs.columns),
    )
    sql = f"WITH {of_runs.sql}, {of_steps.sql} {_TABLES.sub('', query)}"
    return await reader.rows(scope, sql, *arguments, *of_runs.columns, *of_steps.columns)


def _rows(name: str, insert: str, columns: tuple[Sequence[Any], ...] | None, shift: int) -> _Rows:
    """`columns`: the insert's parameters, None for no rows. `shift`: how many parameters of others stand before."""
    found = _INSERT.match(insert)
    assert found is not None, "an insert of rows that a fold made"
    numbers = {int(number) for number in _PARAMETER.findall(found["rows"])}
    rows = _PARAMETER.sub(lambda number: f"${int(number[1]) + shift}", found["rows"].replace("{schema}.", ""))
    return _Rows(f"{name} ({found['columns']}) AS ({rows})", columns or tuple([] for _ in numbers))
