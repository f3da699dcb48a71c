"""What people hand in is in no log and no trace, whatever goes wrong with it: logs cannot be erased."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import asyncpg
from pydantic import BaseModel

from events.administration import USER, UserCreated
from events.connection import connect
from events.context import SERVICE_ACTOR
from events.ids import new_id
from events.keyring import use_keys
from events.keys import MasterKeys
from events.log import EventLog
from events.model import Decision, Event
from events.processing import RUN, StepFailed
from events.settings import Settings
from projections.rebuild import rebuild
from services.steps.base import StepConfig
from services.worker import foreign  # noqa: F401 - its models are looked at
from tests.observability.conftest import Observed
from tests.system.client import Org

MARKER = f"Marker{uuid.uuid4().hex[:12]}"
ROWS = [{"name": f"{MARKER} {number}", "email": f"{MARKER}{number}@example.com", "n": 0} for number in range(50)]
CAST = {"key": "cast_types", "config": {"casts": [{"field": "name", "to": "integer"}], "on_error": "fail"}}
ENDS = ("test_quote", "test_crash", "test_garbage", "test_reject_all", CAST)


async def hand_in_what_fails(org: Org) -> None:
    """Runs that fail in every way, previews, files and bodies that cannot be read."""
    org.company_id = (await org.call("companies/create", {"name": f"{MARKER} GmbH"}))["company_id"]
    company = {"company_id": org.company_id}
    for step in ENDS:
        once = {"key": step} if isinstance(step, str) else step
        blueprint = await org.blueprint(once | {"retry": {"attempts": 1}})
        ended = await org.ended(await org.submit(blueprint, ROWS, name=f"{MARKER}'s list"))
        assert ended["status"] == "failed", step
        await org.post("blueprints/preview", {**company, "blueprint_id": blueprint, "records": ROWS[:3]})
    readable = await org.blueprint({"key": "normalize_text", "config": {"fields": ["name"]}})
    params = {**company, "blueprint_id": readable, "name": f"{MARKER}.csv"}
    for content in (f"name,name\n{MARKER},x\n", f'{{"name": "{MARKER}', f"\x00{MARKER}"):
        await org.http.post("submissions/upload", params=params, content=content.encode())
    await org.post("submissions/create", {**company, "blueprint_id": readable, "records": [MARKER]})
    await org.post("submissions/create", {**company, MARKER: MARKER, "records": MARKER})
    await org.http.post("submissions/create", content=f'{{"name": "{MARKER}'.encode())
    for _ in range(2):
        user = {**company, "email": f"{MARKER}@example.com", "name": MARKER, "role": "member"}
        await org.call("users/create", user)
    await org.post("users/create", user | {"role": MARKER})
    await org.post("companies/erase", {**company, "confirmation": f"{MARKER}, not"})


async def record_what_cannot_be_stored(observed: Observed, org: Org) -> int:
    """Decisions that are poison to the projections: too long for an index, and of a run that is not there; the last."""
    noise = "".join(chr(0x4E00 + (index * 7919) % 20_000) for index in range(8000))
    run_id, user_id = new_id(), new_id()
    created = UserCreated(originator_id=user_id, originator_version=1, email=MARKER, name=MARKER, role="member",
                          company_id=org.company_id, identity=MARKER + noise)  # fmt: skip
    failed = StepFailed(originator_id=run_id, originator_version=1, step_index=0, step_key="test_count",
                        step_version="1", attempt=1, started_at=datetime.now(UTC), duration_us=1, input_digest=MARKER,
                        input_rows=1, code="x", message=MARKER, final=True)  # fmt: skip
    nats = await connect([observed.nats_url], "tests")
    use_keys(nats, MasterKeys(json.loads((observed.home / "embedded.json").read_text())["master_keys"]))
    try:
        for kind, event in ((USER, created), (RUN, failed)):
            position = (await EventLog(nats).append(of(org, kind, event))).position
        await org.call("orgs/get", {"min_position": position})  # the projector has come past it
        async with asyncpg.create_pool(observed.database_url, min_size=1) as operators:
            await rebuild(operators, nats, check_only=True)  # by the owner, to whom Postgres tells more
    finally:
        await nats.close()
    return position


def of(org: Org, kind: str, event: Event) -> Decision:
    return Decision(
        org_id=org.org_id, kind=kind, aggregate_id=event.originator_id, version=1, routing="log.test",
        decision_id=new_id(), at=datetime.now(UTC), actor=SERVICE_ACTOR, events=(event,), company_id=org.company_id,
        digest="d",
    )  # fmt: skip


async def test_nothing_of_what_was_handed_in_is_in_a_log_or_a_trace(observed: Observed, org: Org) -> None:
    await hand_in_what_fails(org)
    position = await record_what_cannot_be_stored(observed, org)
    assert await observed.entries("projector", event="dead_letter", position=position), "it was told of"
    database = await asyncpg.connect(observed.database_url)
    try:
        letters = await database.fetch("SELECT name, reason FROM data_engine.projection_dead_letters")
    finally:
        await database.close()
    assert {"users_v2", "step_results_v1"} <= {letter["name"] for letter in letters}
    assert "23502" in str(letters), "refused by Postgres itself, whose log tells of it too"
    texts = {path.name: path.read_bytes() for path in (observed.home / "logs").iterdir()}
    assert b"null value in column" in texts["postgres.log"]
    texts |= {"dead letters": str(letters).encode(), "traces": b"\n".join(observed.collector.bodies)}
    found = {name for name, text in texts.items() for form in (MARKER, MARKER.upper()) if form.encode() in text}
    assert found == set()


def models_of(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from models_of(model)


def test_no_fault_of_a_stored_or_sent_message_quotes_it() -> None:
    """Who raises a ValidationError cannot know who logs it."""
    known = [model for model in models_of(BaseModel) if not issubclass(model, Settings | StepConfig)]
    ours = [model for model in known if model.__module__.startswith(("events.", "services.worker."))]
    assert {"events.payload", "events.commands", "services.worker.foreign"} <= {model.__module__ for model in ours}
    assert [model for model in ours if not model.model_config.get("hide_input_in_errors")] == []
