"""The read model `steps_v1`: the last registration of each step. `config_schema` is JSON text."""

from collections.abc import Sequence

from events import strictjson
from events.administration import STEP, StepRegistered
from events.model import Recorded
from projections.base import Projection, Statement, Table, statements, storable

UPSERT = """
INSERT INTO {schema}.steps_v1 AS t (step_key, version, summary, config_schema, has_effects, registered_at, position)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[], $7::bigint[])
ON CONFLICT (step_key) DO UPDATE
SET version = excluded.version, summary = excluded.summary, config_schema = excluded.config_schema,
    has_effects = excluded.has_effects, registered_at = excluded.registered_at, position = excluded.position
WHERE t.position <= excluded.position
"""


def fold(batch: Sequence[Recorded]) -> list[Statement]:
    """The last registration of each step in the batch."""
    registered = {
        event.originator_id: (
            event.originator_id,
            storable(event.version),
            storable(event.summary),
            strictjson.dumps(event.config_schema).decode(),
            event.has_effects,
            recorded.decision.at,
            recorded.position,
        )
        for recorded in batch
        for event in recorded.decision.events
        if isinstance(event, StepRegistered)
    }
    return statements(Statement.of(UPSERT, registered.values()))


STEPS = Projection(name="steps_v1", kind=STEP, tables=(Table("steps_v1", ("step_key",)),), fold=fold)
