"""The read model `submissions_v1`: what was handed in. The records themselves are in the log or the blob store."""

from collections.abc import Sequence

from events.model import Recorded
from events.processing import RUN, SubmissionCreated
from projections.base import Projection, Statement, Table, rows_of_company, statements, storable

INSERT = """
INSERT INTO {schema}.submissions_v1 (
    submission_id, org_id, company_id, blueprint_id, name, records_digest, records_size_bytes, records_rows,
    records_inline, records_format, created_by, created_at, position
)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::boolean[], $10::text[], $11::uuid[], $12::timestamptz[], $13::bigint[]
)
ON CONFLICT (submission_id) DO NOTHING
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the submissions made in the batch."""
    made = {
        event.submission_id: (
            event.submission_id,
            recorded.decision.org_id,
            event.company_id,
            event.blueprint_id,
            storable(event.name),
            storable(event.records.digest),
            event.records.size_bytes,
            event.records.rows,
            event.records.inline is not None,
            event.records.format,
            recorded.decision.actor.user_id,
            recorded.decision.at,
            recorded.position,
        )
        for recorded in batch
        for event in recorded.decision.events
        if isinstance(event, SubmissionCreated)
    }
    return statements(Statement.of(INSERT, made.values()))


SUBMISSIONS = Projection(
    name="submissions_v1",
    kind=RUN,
    tables=(Table("submissions_v1", ("submission_id",)),),
    fold=fold,
    erase=(rows_of_company("submissions_v1"),),
)
