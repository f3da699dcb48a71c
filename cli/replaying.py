"""`dex replay`: the log over the API, as whoever the token says; and, for the operator, the read models at a moment."""

import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cli.api import Api, ApiError
from cli.render import console, facts_table, harmless, print_json
from events.archive import Archive
from events.connection import connect
from events.errors import InvalidInputError
from events.keyring import use_keys, wrapper_of
from events.log import EventLog
from events.settings import Settings
from projections.database import create_pool
from projections.moment import BuiltMoment, build_moment, check_name

SOURCE = "/data-engine-x/orgs"
PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 10.0, 10.0, 10.0, 10.0)
"""Before a stream that is followed is asked for again: a minute in all, since something last came."""


class Format(StrEnum):
    """How events are shown."""

    TABLE = "table"
    JSON = "json"
    CLOUDEVENTS = "cloudevents"


def replay(api: Api, body: Mapping[str, Any], shown_as: Format) -> None:
    """Print what `events/stream` gives, as it comes in. Raises ApiError when it ends by anything but its end."""
    if shown_as is Format.TABLE:
        head = f"{'position':>10}  {'recorded at':<26}  {'what':<34}  {'of':<44}  by"
        console.print(head, highlight=False, soft_wrap=True)
    org_id = api.call("orgs/get")["org_id"] if shown_as is Format.CLOUDEVENTS else ""
    for decision in decisions(api, body):
        if shown_as is Format.JSON:
            _print(decision)
        elif shown_as is Format.CLOUDEVENTS:
            for event in cloudevents(decision, org_id):
                _print(event)
        else:
            for line in _rows(decision):
                console.print(harmless(line), highlight=False, markup=False, soft_wrap=True)


def decisions(api: Api, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The decisions of a stream. One that is followed goes on by itself, from its last position, when it breaks off, or
    ends because a server is away.

    Raises ApiError.
    """
    at, failures = body["after_position"], 0
    while True:
        try:
            for line in api.lines("events/stream", {**body, "after_position": at}):
                at = line["position"]
                if "problem" in line:
                    raise ApiError(
                        f"The stream ended: {line['problem'].get('detail')}", status=line["problem"]["status"]
                    )
                failures = 0
                if line.get("end"):
                    return
                if "heartbeat" not in line:
                    yield line
            error: ApiError = ApiError("The stream broke off before its end.")
        except ApiError as failed:
            error = failed
        refused = error.details.get("status", 503) < 500
        if not body["follow"] or refused or failures == len(PAUSES_S):
            raise error
        time.sleep(PAUSES_S[failures])  # a pause, so that a server that is on its way up is not asked in vain
        failures += 1


def cloudevents(decision: Mapping[str, Any], org_id: str) -> Iterator[dict[str, Any]]:
    """The decision's events as CloudEvents 1.0, in their JSON format (structured mode), one each.

    `id` is the position and the event's place in its decision, which is unique within the source. Our own facts are
    extension attributes, whose names have small letters and digits only.
    """
    for index, event in enumerate(decision["events"]):
        extensions = {
            "position": str(decision["position"]),  # CloudEvents' integers have 32 bits
            "decisionid": decision["decision_id"],
            "causationid": decision["causation_id"],
            "correlationid": decision["correlation_id"],
            "companyid": decision["company_id"],
            "actorid": decision["actor"]["user_id"],
            "recordedtime": decision["recorded_at"],
        }
        yield {
            "specversion": "1.0",
            "id": f"{decision['position']}.{index}",
            "source": f"{SOURCE}/{org_id}",
            "type": event["topic"],
            "subject": f"{decision['kind']}/{decision['id']}",
            "time": decision["at"],
            "datacontenttype": "application/json",
            **{name: value for name, value in extensions.items() if value is not None},
            "data": {"class_version": event["class_version"], **event["data"]},
        }


def _rows(decision: Mapping[str, Any]) -> Iterator[str]:
    of = f"{decision['kind']} {decision['id']}"
    by = decision["actor"]["user_id"] or decision["actor"]["method"]
    for event in decision["events"]:
        detail = "".join(f" {name}={event['data'][name]}" for name in ("step_key", "code") if event["data"].get(name))
        what = event["topic"] + detail
        yield f"{decision['position']:>10}  {decision['recorded_at'] or '':<26.26}  {what:<34}  {of:<44}  {by}"


def _print(line: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()


async def build_and_show_moment(settings: Settings, as_of: str, schema: str, *, as_json: bool) -> None:
    """Build the read models at a moment into a schema. Raises InvalidInputError, StateConflictError."""
    check_name(schema)
    connection = await connect(settings.nats_servers, "dex")
    use_keys(connection, wrapper_of(settings))
    columns = (TextColumn("Building"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        async with await create_pool(settings) as pool:
            position = await position_of(EventLog(connection), Archive(pool), as_of)
            with Bar(*columns, console=console, disable=as_json) as bar:
                task = bar.add_task("build", total=position)
                built = await build_moment(
                    pool, connection, schema, position, lambda at, of: bar.update(task, completed=at, total=of)
                )
    finally:
        await connection.close()
    if as_json:
        print_json(_as_json(built))
        return
    console.print(facts_table(f"Read models at position {built.position:,}", ("table", "rows"), built.rows.items()))
    letters = f"; {built.dead_letters:,} dead letters" if built.dead_letters else ""
    console.print(f"In the schema {built.schema}, in {built.seconds:.2f} s{letters}.")


async def position_of(log: EventLog, archive: Archive, as_of: str) -> int:
    """The position that a position, or a time with a zone, stands for. Raises InvalidInputError."""
    if as_of.isdecimal():
        return int(as_of)
    try:
        time = datetime.fromisoformat(as_of)
    except ValueError:
        raise InvalidInputError(f"{as_of!r} is neither a position nor a time as 2026-01-31T12:00:00Z.") from None
    if time.tzinfo is None:
        raise InvalidInputError(f"The time {as_of} has no zone: add Z, or an offset as +02:00.")
    state = await log.state()
    after = await log.first_since(time + timedelta(microseconds=1))  # as the archive, which keeps microseconds
    if after is None and state.first_position <= state.last_position:
        return state.last_position
    if after is not None and (after > state.first_position or after == 1):
        return after - 1
    return await archive.position_at(time)


def _as_json(built: BuiltMoment) -> dict[str, Any]:
    return {
        "schema": built.schema,
        "position": built.position,
        "rows": built.rows,
        "dead_letters": built.dead_letters,
        "seconds": round(built.seconds, 3),
    }
