"""eventsourcing's own recorder test-suite against our log.

The library's recorders are synchronous and give each event a version of its own; our log records a decision, with
all its events, at one version. So the adapter below records each inserted event as a decision of one event; a list of
events of one aggregate goes in as a chain, of which the first conflict stops the rest before anything is recorded. The
suites that need a lock over several aggregates (atomic inserts across originators) do not apply: design rule 1.
"""

import asyncio
import base64
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import nats
import pytest
from eventsourcing.persistence import AggregateRecorder, IntegrityError, StoredEvent
from eventsourcing.tests.persistence import AggregateRecorderTestCase

from events.context import SERVICE_ACTOR
from events.errors import VersionConflictError
from events.ids import new_id
from events.log import EventLog
from events.model import Decision, Event

ORG = "recorder"


class Opaque(Event):
    """Carries a stored event of the suite as it is."""

    TOPIC: ClassVar[str] = "test.opaque"
    topic: str
    state: str


class LoopThread:
    """An event loop in a thread, for synchronous callers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def __call__(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(30)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class LogRecorder(AggregateRecorder):
    """The library's AggregateRecorder interface over our EventLog."""

    def __init__(self, log: EventLog, call: LoopThread) -> None:
        self._log = log
        self._call = call

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Append, or raise IntegrityError and append nothing."""
        if len({(e.originator_id, e.originator_version) for e in stored_events}) < len(stored_events):
            raise IntegrityError("a version twice")
        for stored in stored_events:
            if any(e.originator_version == stored.originator_version for e in self.select_events(stored.originator_id)):
                raise IntegrityError("the version is taken")
        try:
            for stored in stored_events:
                self._call(self._log.append(self._decision(stored)))
        except VersionConflictError as error:
            raise IntegrityError(str(error)) from error
        return None

    def select_events(
        self, originator_id: UUID | str, *, gt: int | None = None, lte: int | None = None, desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:  # fmt: skip
        """The events of one aggregate, by version."""
        found = []
        for recorded in self._call(self._log.history(ORG, "test", str(originator_id))):
            event = recorded.decision.events[0]
            version = recorded.decision.version
            if (gt is None or version > gt) and (lte is None or version <= lte):
                found.append(StoredEvent(originator_id, version, event.topic, base64.b64decode(event.state)))
        found = found[::-1] if desc else found
        return found[:limit] if limit is not None else found

    @staticmethod
    def _decision(stored: StoredEvent) -> Decision:
        aggregate_id = str(stored.originator_id)
        event = Opaque(
            originator_id=aggregate_id,
            originator_version=stored.originator_version,
            topic=stored.topic,
            state=base64.b64encode(stored.state).decode(),
        )
        return Decision(
            org_id=ORG, kind="test", aggregate_id=aggregate_id, version=stored.originator_version, routing="log.test",
            decision_id=new_id(), at=datetime.now(UTC), actor=SERVICE_ACTOR, events=(event,),
        )  # fmt: skip


class TestLogAsAggregateRecorder(AggregateRecorderTestCase):
    """The shipped suite, unchanged."""

    @pytest.fixture(autouse=True)
    def _servers(self, servers):
        self.call = LoopThread()
        self.connection = self.call(nats.connect(servers.nats_url))
        yield
        self.call(self.connection.close())
        self.call.close()

    def create_recorder(self) -> AggregateRecorder:
        return LogRecorder(EventLog(self.connection), self.call)


del AggregateRecorderTestCase  # pytest would collect the abstract class as well
