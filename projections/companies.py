"""The read model `companies_v1`: a company never changes, but that it may be erased; then its name is gone."""

from collections.abc import Sequence

from events.administration import COMPANY, CompanyCreated, CompanyErased
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

INSERT = """
INSERT INTO {schema}.companies_v1 (company_id, org_id, name, created_at, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[])
ON CONFLICT (company_id) DO NOTHING
"""


ERASE = """
UPDATE {schema}.companies_v1 t SET name = NULL, erased_at = g.erased_at, erased_position = g.position
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[]) AS g (company_id, org_id, erased_at, position)
WHERE t.company_id = g.company_id AND t.org_id = g.org_id
"""


FORGET = "UPDATE {schema}.companies_v1 SET name = NULL WHERE company_id = ANY($1::uuid[])"


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """Rows of the companies made in the batch, and what is left of those that were erased in it."""
    made: dict[str, tuple[object, ...]] = {}
    erased: dict[str, tuple[object, ...]] = {}
    for recorded in batch:
        decision = recorded.decision
        key = (decision.aggregate_id, decision.org_id)
        if decision.erased and decision.version == 1:  # its name cannot be known any more; the envelope says the rest
            made[decision.aggregate_id] = (*key, None, decision.at, recorded.position)
        for event in decision.events:
            match event:
                case CompanyCreated():
                    row = (*key, storable(event.name), decision.at, recorded.position)
                    made.setdefault(decision.aggregate_id, row)  # the first one counts, as for INSERT
                case CompanyErased():
                    erased[decision.aggregate_id] = (*key, decision.at, recorded.position)
    return statements(Statement.of(INSERT, made.values()), Statement.of(ERASE, erased.values()))


COMPANIES = Projection(
    name="companies_v1", kind=COMPANY, tables=(Table("companies_v1", ("company_id",)),), fold=fold, erase=(FORGET,)
)
