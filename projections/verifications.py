"""The read model `verifications_v1`: the runs that execute another one's steps again, and which run that is."""

from collections.abc import Sequence

from events.model import Recorded
from events.processing import RUN, RunStarted
from projections.base import Projection, Statement, Table, rows_of_company, statements

UPSERT = """
INSERT INTO {schema}.verifications_v1 (run_id, org_id, company_id, verifies, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[])
ON CONFLICT (run_id) DO NOTHING
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """A row for each verification that started in the batch; nothing of it changes."""
    rows = [
        (event.originator_id, recorded.decision.org_id, event.company_id, event.verifies.run_id, recorded.position)
        for recorded in batch
        for event in recorded.decision.events
        if isinstance(event, RunStarted) and event.verifies is not None
    ]
    return statements(Statement.of(UPSERT, rows))


VERIFICATIONS = Projection(
    name="verifications_v1",
    kind=RUN,
    tables=(Table("verifications_v1", ("run_id",)),),
    fold=fold,
    erase=(rows_of_company("verifications_v1"),),
)
