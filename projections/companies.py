"""The read model `companies_v1`: a company never changes."""

from collections.abc import Sequence

from events.administration import COMPANY, CompanyCreated
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

INSERT = """
INSERT INTO {schema}.companies_v1 (company_id, org_id, name, created_at, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[])
ON CONFLICT (company_id) DO NOTHING
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the companies made in the batch."""
    made = {
        event.originator_id: (
            event.originator_id,
            recorded.decision.org_id,
            storable(event.name),
            recorded.decision.at,
            recorded.position,
        )
        for recorded in batch
        for event in recorded.decision.events
        if isinstance(event, CompanyCreated)
    }
    return statements(Statement.of(INSERT, made.values()))


COMPANIES = Projection(name="companies_v1", kind=COMPANY, tables=(Table("companies_v1", ("company_id",)),), fold=fold)
