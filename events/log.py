"""The event log: append with a mandatory version check, read a history, read one position. JetStream, nothing else.

Bare nats-py, because this is the hot path. Sources: NATS ADR-8 (expected last subject sequence), ADR-31 (direct and
batched get).
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import metrics, strictjson, subjects, tracing
from events.errors import (
    ErasedError,
    IdempotencyError,
    InvalidInputError,
    PoisonedMessageError,
    RejectedError,
    UnavailableError,
    VersionConflictError,
)
from events.ids import new_id
from events.keyring import Keyring, keyring_of
from events.keys import CompanyKeys, Owner
from events.mapper import decision_id_of, decode_decision, encode_decision
from events.model import Decision, Recorded

REQUEST_TIMEOUT_S = 5.0
APPEND_ATTEMPTS = 6
APPEND_WITHIN_S = APPEND_ATTEMPTS * REQUEST_TIMEOUT_S + 0.05 * 2**APPEND_ATTEMPTS
"""So long an append goes on at most: its attempts, and the pauses between them."""
HISTORY_MAX_SUBJECTS = 1024
PAGE_MESSAGES = 500

EPOCH, TRIMMED_TO, TRIMMING = "data_engine.epoch", "data_engine.trimmed_to", "data_engine.trimming"
"""Metadata of the stream EVENTS: the log's name for life; up to where it may be trimmed; until when that goes on."""

_timer = cache(metrics.LOG_APPEND_DURATION.labels)
_WRONG_LAST_SEQUENCE = (10071, 10164)
"""`wrong last sequence` and `wrong last sequence: constraints changed under way` (nats-server's errors.json)."""


@dataclass(frozen=True, slots=True)
class LogState:
    """What the log is now. `epoch` names its life: a log that is made anew has another one.

    Up to `trimmed_to`, it was announced, positions may be gone and are in the archive. `faults` are settings of the
    stream that a log must not have, as sentences. `created` is when the stream was made, which was the epoch before it
    had one.
    """

    epoch: str
    first_position: int
    last_position: int
    trimmed_to: int = 0
    faults: tuple[str, ...] = ()
    created: str = ""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a decision is recorded. `repeated`: it was there already, by an earlier attempt or an earlier command."""

    position: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Stored:
    position: int
    subject: str
    body: bytes
    recorded_at: datetime | None


class EventLog:
    """The one immutable log of decisions, on the stream EVENTS."""

    def __init__(self, connection: Client, keyring: Keyring | None = None) -> None:
        self._nc = connection
        self._keyring = keyring or keyring_of(connection)

    async def append(self, decision: Decision) -> Appended:
        """Record a decision at its version; returns once it is on disk.

        Exactly one decision can hold a version. When this very decision (same id, same digest) already holds it, as
        after a lost acknowledgement or for a repeated command, its position is returned. Raises IdempotencyError when
        the id is the same and the digest is not, VersionConflictError when another decision holds the version, and
        UnavailableError when the log did not answer (it may have been recorded: append it again to know).
        """
        began_s, outcome = time.perf_counter(), "unavailable"
        try:
            with tracing.span(f"append {decision.kind}", "PRODUCER", None, **_ids(decision)) as span:
                appended = await self._append(decision)
                if span is not None:
                    span.set_attribute("data_engine.position", appended.position)
            outcome = "repeated" if appended.repeated else "recorded"
            return appended
        except VersionConflictError:
            outcome = "conflict"
            raise
        except RejectedError:
            outcome = "refused"
            raise
        finally:
            _timer(outcome).observe(time.perf_counter() - began_s)

    async def _append(self, decision: Decision) -> Appended:
        subject = subjects.decision(*self._key(decision), decision.version, decision.routing)
        version_filter = subjects.version_filter(*self._key(decision), decision.version)
        headers = {
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": version_filter,
            **tracing.carried(),
        }
        body = encode_decision(decision, subject, await self._keys_for(decision))
        for attempt in range(APPEND_ATTEMPTS):
            try:
                answer = await self._nc.request(subject, body, timeout=REQUEST_TIMEOUT_S, headers=headers)
            except nats.errors.MaxPayloadError as error:
                raise InvalidInputError(
                    f"A decision of {len(body):,} bytes is more than the log takes.", code="too_large"
                ) from error
            except nats.errors.Error as error:
                if attempt == APPEND_ATTEMPTS - 1:
                    raise UnavailableError("The event log does not answer.") from error
                await asyncio.sleep(0.05 * 2**attempt)  # backoff, not synchronisation
                continue
            outcome = strictjson.loads(answer.data)
            error_ = outcome.get("error")
            if error_ is None:
                return Appended(int(outcome["seq"]))
            if error_.get("err_code") in _WRONG_LAST_SEQUENCE:
                return appended_before(decision, await self._holder(version_filter))
            raise UnavailableError(f"The event log refused a decision: {error_.get('description')}")
        raise AssertionError("unreachable")

    async def _keys_for(self, decision: Decision) -> CompanyKeys | None:
        """What a decision is sealed with: those of a company are, but for the one that says that it is erased."""
        if decision.company_id is None or decision.routing == subjects.ERASED_ROUTING:
            return None
        return await self._keyring.to_write(Owner(decision.org_id, decision.company_id))

    async def _holder(self, version_filter: str) -> Recorded | None:
        """Who holds a version that is known to be held; a replica that is behind is asked again."""
        for attempt in range(APPEND_ATTEMPTS):
            holder = await self.last(version_filter)
            if holder is not None:
                return holder
            await asyncio.sleep(0.02 * 2**attempt)  # backoff, not synchronisation
        return None

    async def last(self, subject_filter: str) -> Recorded | None:
        """The last decision on a subject or filter, or None."""
        found = await self._get_many({"multi_last": [subject_filter], "batch": 1})
        return found[-1] if found else None

    async def at(self, position: int) -> Recorded | None:
        """The decision at a position, or None when the log has none there."""
        found = await self._get_many({"seq": position, "batch": 1})
        return found[0] if found and found[0].position == position else None

    async def id_at(self, position: int) -> str:
        """The id of the decision at a position, without a key for it; "" when the log, or this replica, has none."""
        found = await self._get_stored({"seq": position, "batch": 1})
        return decision_id_of(found[0].body) if found and found[0].position == position else ""

    async def first_since(self, time: datetime) -> int | None:
        """The first position that was recorded at or after a time (with a zone), of what the log has; None for none."""
        found = await self._get_many({"start_time": time.isoformat(), "next_by_subj": "events.>", "batch": 1})
        return found[0].position if found else None

    async def history(self, org_id: str, kind: str, aggregate_id: str) -> list[Recorded]:
        """All decisions of one aggregate, by version. Empty when there is none."""
        subject_filter = subjects.history(org_id, kind, aggregate_id)
        try:
            found = await self._get_many({"multi_last": [subject_filter], "batch": HISTORY_MAX_SUBJECTS})
        except _TooManySubjectsError:
            found = [recorded async for recorded in EventLog.read(self, 0, subject_filter)]
        return sorted(found, key=lambda recorded: recorded.decision.version)

    async def holder(self, org_id: str, kind: str, aggregate_id: str, version: int) -> Recorded | None:
        """The decision that holds a version of an aggregate, or None."""
        return await self.last(subjects.version_filter(org_id, kind, aggregate_id, version))

    async def read(self, after: int, subject_filter: str = "events.>", limit: int = 0) -> AsyncIterator[Recorded]:
        """The decisions after a position, in order, up to the log's present end; at most `limit` when it is not 0."""
        remaining = limit or sys.maxsize
        while remaining > 0:
            batch = min(PAGE_MESSAGES, remaining)
            page = await self._get_many({"seq": after + 1, "next_by_subj": subject_filter, "batch": batch})
            for recorded in page:
                yield recorded
            if len(page) < batch:
                return
            remaining -= len(page)
            after = page[-1].position

    async def state(self) -> LogState:
        """The epoch and the bounds of the log. Raises UnavailableError."""
        try:
            answer = await self._nc.request(f"$JS.API.STREAM.INFO.{subjects.EVENTS}", b"", timeout=REQUEST_TIMEOUT_S)
        except nats.errors.Error as error:
            raise UnavailableError("The event log does not answer.") from error
        info = strictjson.loads(answer.data)
        if "error" in info:
            raise UnavailableError(f"The event log cannot be read: {info['error'].get('description')}")
        return stream_state(info)

    async def _get_many(self, request: dict[str, object]) -> list[Recorded]:
        found = await self._get_stored(request)
        await self._keyring.load((stored.subject, stored.body) for stored in found)
        return [_decoded(stored, self._keyring) for stored in found]

    async def _get_stored(self, request: dict[str, object]) -> list[_Stored]:
        """One direct get that answers with several messages, ended by an empty one with status 204."""
        inbox = self._nc.new_inbox()
        queue: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._nc.subscribe(inbox, cb=queue.put)
        try:
            await self._nc.publish(f"$JS.API.DIRECT.GET.{subjects.EVENTS}", strictjson.dumps(request), reply=inbox)
            found: list[_Stored] = []
            while (stored := _from_direct(await _next(queue))) is not None:
                found.append(stored)
            return found
        except (TimeoutError, nats.errors.Error) as error:
            raise UnavailableError("The event log does not answer a read.") from error
        finally:
            await subscription.unsubscribe()

    @staticmethod
    def _key(decision: Decision) -> tuple[str, str, str]:
        return decision.org_id, decision.kind, decision.aggregate_id


def _ids(decision: Decision) -> dict[str, str | None]:
    run_id = decision.aggregate_id if decision.kind == "run" else None
    return {"request_id": decision.request_id, "org_id": decision.org_id, "run_id": run_id}


def stream_state(info: dict[str, Any]) -> LogState:
    """The log's state from what the server tells of the stream EVENTS."""
    config, state = info["config"], info["state"]
    metadata = config.get("metadata") or {}
    return LogState(
        epoch=metadata.get(EPOCH) or info["created"],
        first_position=state["first_seq"],
        last_position=state["last_seq"],
        trimmed_to=int(metadata.get(TRIMMED_TO, 0)),
        faults=tuple(_config_faults(config, server_time(info))),
        created=info["created"],
    )


def server_time(info: dict[str, Any]) -> datetime:
    """The server's clock, as it is in what it tells of a stream (since nats-server 2.10)."""
    return datetime.fromisoformat(info["ts"])


def _config_faults(config: dict[str, Any], now: datetime) -> Iterator[str]:
    """What of a stream's settings would let decisions vanish, or others in; nothing as `dex migrate` makes it."""
    limits = {"max_age": 0, "max_msgs": -1}
    if trimming := (config.get("metadata") or {}).get(TRIMMING):
        limits.pop("max_age")  # for a moment: `dex log trim` is at work
        if not _is_before(now, trimming):
            yield f"max_age is {config.get('max_age')}: a `dex log trim` was killed and left it there; run it again"
    for name, none in limits.items():
        if (config.get(name) or none) not in (none, 0, -1):
            yield f"{name} is {config[name]}: decisions vanish by it; set it to {none}"
    for name in ("deny_delete", "deny_purge", "discard_new_per_subject"):
        if not config.get(name):
            yield f"{name} is off; it must be on"
    if config.get("discard") != "new":
        yield f"discard is {config.get('discard')!r}: a full log drops its oldest decisions; set it to 'new'"
    if config.get("max_msgs_per_subject") != 1:
        yield f"max_msgs_per_subject is {config.get('max_msgs_per_subject')}; it must be 1"
    if config.get("subjects") != ["events.>"]:
        yield f"subjects is {config.get('subjects')!r}; it must be ['events.>']"


def _is_before(now: datetime, until: str) -> bool:
    """Also not, when that is no time of ours."""
    try:
        return now < datetime.fromisoformat(until)
    except (ValueError, TypeError):
        return False


class _TooManySubjectsError(Exception):
    """A multi_last matched more subjects than the server answers at once (status 413)."""


async def _next(queue: asyncio.Queue[Msg]) -> Msg:
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        return await queue.get()


def _from_direct(message: Msg) -> _Stored | None:
    """One answer of a batched direct get; None at its end."""
    headers = message.headers or {}
    status = headers.get("Status")
    if status in ("204", "404"):
        return None
    if status == "413":
        raise _TooManySubjectsError
    if status is not None:
        raise UnavailableError(f"The event log answered {status} {headers.get('Description', '')}.")
    recorded_at = _time(headers.get("Nats-Time-Stamp"))
    return _Stored(int(headers["Nats-Sequence"]), headers["Nats-Subject"], message.data, recorded_at)


def _decoded(stored: _Stored, keyring: Keyring) -> Recorded:
    position = stored.position
    try:
        return Recorded(position, decode_decision(stored.subject, stored.body, keyring), stored.recorded_at)
    except PoisonedMessageError as error:
        raise PoisonedMessageError(f"Position {position}: {error.message}", position=position) from error


def _time(stamp: str | None) -> datetime | None:
    """The stream's time, with its nanoseconds cut to microseconds."""
    return None if stamp is None else datetime.fromisoformat(stamp)


def appended_before(decision: Decision, holder: Recorded | None) -> Appended:
    """Where a decision stands that holds its version already. Raises VersionConflictError when another one does."""
    if holder is not None and holder.decision.decision_id == decision.decision_id:
        check_same_body(holder.decision, decision.digest)
        return Appended(holder.position, repeated=True)
    raise VersionConflictError(
        f"Version {decision.version} of {decision.kind} {decision.aggregate_id} is held by another decision."
    )


def check_same_body(recorded: Decision, digest: str | None) -> None:
    """Raises IdempotencyError when a command's id was used before, for another body. Also ErasedError."""
    if recorded.erased:
        raise ErasedError("What this Idempotency-Key was used for belongs to a company that is erased.")
    if recorded.digest != digest:
        raise IdempotencyError(
            "This Idempotency-Key was used before, with another body. Use a new key for a new request."
        )


def decision_id() -> str:
    """An id for a decision that no command made; fresh for each, so that a lost acknowledgement can be recognised."""
    return new_id()
