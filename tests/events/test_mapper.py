"""The storage format: what was written once must be readable by all later code."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import given
from hypothesis import strategies as st

from events.administration import TokenCreated
from events.context import Actor
from events.errors import PoisonedMessageError
from events.mapper import CATALOGUE, MAPPER, decode_decision, encode_decision
from events.model import Decision, Event
from events.payload import describe, encode_records
from events.processing import RunSucceeded, StepSucceeded
from services.domain import administration, entities
from services.domain import run as runs

GOLDEN = Path(__file__).parent / "golden"
ADMINISTERED = ("org", "company", "user", "token", "blueprint", "step")
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def decision(*events: Event) -> Decision:
    return Decision(
        org_id="o", kind="run", aggregate_id="r", version=7, routing="end.succeeded", decision_id="d", at=AT,
        actor=Actor(method="api_token", user_id="u", token_id="t", role="member"), events=events, company_id="c",
        causation_id="why", correlation_id="s", request_id="q", digest="abc",
    )  # fmt: skip


def test_a_decision_makes_the_round_trip():
    payload = describe(encode_records([{"a": "\u0000ü"}]), 1)
    succeeded = StepSucceeded(
        originator_id="r", originator_version=7, step_index=0, step_key="k", step_version="1", attempt=1,
        started_at=AT, duration_us=5, input_digest="x", input_rows=1, output=payload,
    )  # fmt: skip
    ended = RunSucceeded(originator_id="r", originator_version=7, output_digest=payload.digest, output_rows=1)
    made = decision(succeeded, ended)
    assert decode_decision("events.o.run.r.7.end.succeeded", encode_decision(made)) == made


def test_topics_are_unique_and_explicit():
    topics = [kind.TOPIC for kind in CATALOGUE]
    assert len(set(topics)) == len(topics)
    assert not any(":" in topic for topic in topics), "a class path is not a topic"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_golden_histories_can_still_be_replayed(path):
    """Recorded histories of released versions. A failure here means that old logs became unreadable."""
    recorded = json.loads(path.read_text())
    decisions = [decode_decision(item["subject"], json.dumps(item["body"]).encode()) for item in recorded["decisions"]]
    if recorded["kind"] == "run":
        state = runs.fold(recorded["id"], [event for made in decisions for event in made.events])
        assert state.status == recorded["then"]["status"]
        assert len(state.results) == recorded["then"]["results"]
    if recorded["kind"] == "entities":
        history = [event for made in decisions for event in made.events]
        assert entities.fold(recorded["id"], history).version == recorded["then"]["version"]
    if recorded["kind"] in ADMINISTERED:
        thing = administration.fold(recorded["id"], [event for made in decisions for event in made.events])
        assert thing.exists
        assert thing.active == recorded["then"].get("active", True)
    assert [event.TOPIC for made in decisions for event in made.events] == recorded["then"]["topics"]


def test_there_is_a_golden_history_of_every_version_of_every_event():
    recorded = [json.loads(path.read_text()) for path in GOLDEN.glob("*.json")]
    events = [event for history in recorded for made in history["decisions"] for event in made["body"]["events"]]
    found = {(event["topic"], event["state"].get("class_version", 1)) for event in events}
    wanted = {(kind.TOPIC, version) for kind in CATALOGUE for version in range(1, kind.class_version + 1)}
    assert wanted - found == set()


def test_every_version_names_the_release_that_it_came_with_and_what_it_changed():
    releases = re.findall(r"^## (\S+)", (Path(__file__).parents[2] / "CHANGELOG.md").read_text(), re.MULTILINE)
    for kind in CATALOGUE:
        assert len(kind.SINCE) == kind.class_version, kind.TOPIC
        assert set(kind.SINCE) <= set(releases), kind.TOPIC
        for version in range(1, kind.class_version):
            assert getattr(kind, f"upcast_v{version}_v{version + 1}").__doc__, kind.TOPIC


def test_a_token_of_the_first_version_is_read_as_one_of_todays():
    """The event that was really changed: version 1 carried the hash of the secret, which has left the log."""
    stored = json.loads((GOLDEN / "token_v1_revoked.json").read_text())["decisions"][0]
    assert "verifier" in stored["body"]["events"][0]["state"]
    [event] = decode_decision(stored["subject"], json.dumps(stored["body"]).encode()).events
    assert isinstance(event, TokenCreated)
    assert (event.class_version, event.secret_id, event.role) == (2, "", None)
    assert "verifier" not in MAPPER.dump_state(event)


BROKEN = {
    "not JSON": ("events.o.run.r.1.log.run", b"\xff"),
    "not a decision's subject": ("results.o", b"{}"),
    "no envelope": ("events.o.run.r.1.log.run", b"{}"),
    "another envelope version": ("events.o.run.r.1.log.run", b'{"v":99}'),
    "an unknown topic": (
        "events.o.run.r.1.log.run",
        b'{"v":1,"id":"d","at":"2026-01-01T00:00:00+00:00","actor":{"method":"service"},"company":null,"cause":null,'
        b'"correlation":null,"request":null,"digest":null,"events":[{"topic":"run.exploded","state":{}}]}',
    ),
    "a field too many": (
        "events.o.run.r.1.log.run",
        b'{"v":1,"id":"d","at":"2026-01-01T00:00:00+00:00","actor":{"method":"service"},"company":null,"cause":null,'
        b'"correlation":null,"request":null,"digest":null,"events":[{"topic":"org.renamed","state":{"name":"x","y":1}}]}',
    ),
}


@pytest.mark.parametrize(("subject", "body"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read_is_poison_and_never_half_an_event(subject, body):
    with pytest.raises(PoisonedMessageError):
        decode_decision(subject, body)


class Renamed(Event):
    """An event in its third version, to show upcasting."""

    TOPIC: ClassVar[str] = "test.renamed"
    class_version: ClassVar[int] = 3
    full_name: str
    reason: str

    @staticmethod
    def upcast_v1_v2(state: dict) -> None:
        state["full_name"] = state.pop("name")

    @staticmethod
    def upcast_v2_v3(state: dict) -> None:
        state["reason"] = "unknown"


@pytest.mark.parametrize(
    "state",
    [
        b'{"name":"x"}',
        b'{"class_version":2,"full_name":"x"}',
        b'{"class_version":3,"full_name":"x","reason":"unknown"}',
    ],
)
def test_old_versions_are_upcast_and_validated(state):
    event = MAPPER.to_domain_event(StoredEvent("id", 4, "test.renamed", state))
    assert event == Renamed(originator_id="id", originator_version=4, full_name="x", reason="unknown")
    assert b'"class_version":3' in MAPPER.to_stored_event(event).state


@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), st.integers(-5, 5))))
def test_payloads_keep_their_bytes_and_digest(records):
    data = encode_records(records)
    payload = describe(data, len(records))
    assert payload.inline is not None
    assert payload.inline.encode() == data
