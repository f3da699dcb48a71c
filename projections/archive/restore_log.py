"""`dex log restore log`: the hot log made anew from the archive, at the same positions and with the same epoch.

What only the hot log had (it was rewound, or made anew, and then written again) is kept in DEAD_LETTERS before anything
is deleted. Then it is appended at the end, as far as its versions are still free; the rest stays, with the reason.

Killed anywhere, the command is run again and does what is left: all it must know is in the stream and in DEAD_LETTERS.
"""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.archive import Archive
from events.errors import StateConflictError, UnavailableError
from events.log import EventLog
from projections.archive.check import NO_MESSAGE, CheckResult, Hot, OnProgress, Progress, archived_rows, check
from projections.archive.stream import (
    TIMEOUT_S,
    api,
    ask,
    beginning_at,
    config_of,
    dead_letter,
    frozen,
    put_all,
)

PAGE_MESSAGES = 500


@dataclass(frozen=True, slots=True)
class LogRestored:
    """What was done: positions put back (0: none had to be), decisions that only the hot log had appended again, and
    those of them that are left in DEAD_LETTERS.
    """

    first_position: int = 0
    last_position: int = 0
    appended: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class _Rescued:
    """A decision that only the hot log had: its number in DEAD_LETTERS, its subject in the log, its bytes."""

    number: int
    subject: str
    body: bytes


async def restore_log(
    pool: asyncpg.Pool, connection: Client, config: dict[str, Any], progress: OnProgress = lambda _: None
) -> LogRestored | None:
    """Make the log anew when it is not what was archived; None when it is. `config` is what EVENTS must be.

    What an earlier restoration rescued, and did not come to append, is appended too. Raises StateConflictError when the
    archive itself is not whole. Meanwhile nobody can append: commands wait.
    """
    archive = Archive(pool)
    head = await archive.head()
    if await config_of(connection) is None:
        empty = beginning_at(config, head.epoch, 1)
        await api(connection, f"STREAM.CREATE.{subjects.EVENTS}", frozen(empty))
    found = await check(pool, connection)
    if faults := found.of_archive():
        raise StateConflictError(
            f"The archive itself is not whole: {faults[0].message} Restore it first: dex log restore archive"
        )
    if not found.of_log() and not found.log.faults:
        again = await _append_rescued(archive, connection)
        return again if again.appended else None
    present = await config_of(connection)
    assert present is not None, "it was made above"
    # The same stream with other subjects: what it holds stays, and from here on nobody adds to it.
    unlimited = {"max_age": 0, "max_msgs": -1, "max_bytes": -1}
    await api(connection, f"STREAM.UPDATE.{subjects.EVENTS}", frozen(present | unlimited))
    await _rescue(pool, connection, found)
    first = found.log.first_position if _was_trimmed(found) else 1
    await api(connection, f"STREAM.DELETE.{subjects.EVENTS}")
    anew = beginning_at(config, head.epoch, first)
    await api(connection, f"STREAM.CREATE.{subjects.EVENTS}", frozen(anew))
    after = first - 1
    while page := await archive.read(after, head.position, PAGE_MESSAGES):
        await put_all(connection, page)
        after = page[-1].position
        progress(Progress(after, head.position))
    await api(connection, f"STREAM.UPDATE.{subjects.EVENTS}", anew)
    again = await _append_rescued(archive, connection)
    return replace(again, first_position=first, last_position=head.position)


def _was_trimmed(found: CheckResult) -> bool:
    """Whether the hot log's beginning was cut off by us, and not lost: then it need not come back."""
    log, head = found.log, found.archive
    return log.epoch == head.epoch and 1 < log.first_position <= min(log.trimmed_to, head.position) + 1


async def _rescue(pool: asyncpg.Pool, connection: Client, found: CheckResult) -> None:
    """Put into DEAD_LETTERS what the archive has not, or has otherwise; in the log's order."""
    state = await EventLog(connection).state()
    hot = Hot(connection, state)
    try:
        async for rows in archived_rows(pool, min(found.archive.position, state.last_position)):
            archived = {row["position"]: (row["subject"], row["body"]) for row in rows}
            for position, message in (await hot.up_to(rows[-1]["position"])).items():
                if archived.get(position) != (message.subject, message.body):
                    await _keep(connection, position, message.subject, message.body)
        for position, message in (await hot.up_to(state.last_position)).items():
            await _keep(connection, position, message.subject, message.body)
    finally:
        await hot.aclose()


async def _keep(connection: Client, position: int, subject: str, body: bytes) -> None:
    reason = f"the log was restored from the archive, which had not this decision at position {position}"
    await dead_letter(connection, subject, body, reason)


async def _rescued(connection: Client) -> AsyncIterator[_Rescued]:
    """The decisions in DEAD_LETTERS, in their order: of this restoration, and of those that were killed."""
    after = 0
    while True:
        following = {"seq": after + 1, "next_by_subj": "dead.events.>"}
        answer = await ask(connection, f"STREAM.MSG.GET.{subjects.DEAD_LETTERS}", following)
        if answer.get("error", {}).get("err_code") == NO_MESSAGE:
            return
        if "error" in answer:
            raise UnavailableError(f"DEAD_LETTERS cannot be read: {answer['error'].get('description')}")
        message = answer["message"]
        after = message["seq"]
        yield _Rescued(after, message["subject"].removeprefix("dead."), base64.b64decode(message.get("data", "")))


async def _append_rescued(archive: Archive, connection: Client) -> LogRestored:
    """Append what can be, and take it from DEAD_LETTERS; how many. What follows a refused one is refused too.

    Done twice it does no more than once: a decision that holds its version already is only taken from DEAD_LETTERS.
    """
    appended, left, refused = 0, 0, set[tuple[str, str, str]]()
    async for letter in _rescued(connection):
        try:
            address = subjects.Address.parse(letter.subject)
            key = (address.org_id, address.kind, address.aggregate_id)
            if key in refused or not await _append_one(archive, connection, address, letter):
                refused.add(key)
                left += 1
                continue
        except ValueError:
            left += 1
            continue  # no decision that we could judge: it stays where it is
        await api(connection, f"STREAM.MSG.DELETE.{subjects.DEAD_LETTERS}", {"seq": letter.number})
        appended += 1
    return LogRestored(appended=appended, dead_letters=left)


async def _append_one(archive: Archive, connection: Client, address: subjects.Address, letter: _Rescued) -> bool:
    """Whether the decision is in the log now: its version was free, and the one before it is there.

    Told by subject and bytes, as they are: what is encrypted cannot be read here.
    """
    key = (address.org_id, address.kind, address.aggregate_id)
    holder = await _held(archive, connection, subjects.version_filter(*key, address.version), address)
    if holder is not None:
        return holder == (letter.subject, letter.body)
    before = replace(address, version=address.version - 1)
    before_filter = subjects.version_filter(*key, before.version)
    if before.version and await _held(archive, connection, before_filter, before) is None:
        return False
    headers = {
        "Nats-Expected-Last-Subject-Sequence": "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": subjects.version_filter(*key, address.version),
    }
    try:
        answer = await connection.request(letter.subject, letter.body, timeout=TIMEOUT_S, headers=headers)
    except nats.errors.Error as error:
        raise UnavailableError("The log does not answer.") from error
    return "error" not in strictjson.loads(answer.data)


async def _held(
    archive: Archive, connection: Client, version_filter: str, address: subjects.Address
) -> tuple[str, bytes] | None:
    """Subject and bytes of what holds a version, in the log or, of what was trimmed, in the archive."""
    answer = await ask(connection, f"STREAM.MSG.GET.{subjects.EVENTS}", {"last_by_subj": version_filter})
    if "message" in answer:
        return answer["message"]["subject"], base64.b64decode(answer["message"].get("data", ""))
    if answer["error"].get("err_code") != NO_MESSAGE:
        raise UnavailableError(f"The log cannot be read: {answer['error'].get('description')}")
    stored = await archive.stored(address.org_id, address.kind, address.aggregate_id, address.version)
    return None if stored is None else (stored.subject, stored.body)
