"""The streams on NATS, made and checked by us: no library declares one in passing.

Sources: NATS JetStream API `STREAM.CREATE`, `STREAM.UPDATE`, `STREAM.INFO` (ADR-1, ADR-31).
"""

import json
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client

from events import subjects
from events.errors import ConfigurationError, UnavailableError
from events.ids import new_id
from events.log import EPOCH

_DEFINITIONS = Path(__file__).parent / "streams.json"
_STREAM_NOT_FOUND = 10059
_REQUEST_TIMEOUT_S = 10.0


def definitions(replicas: int, events_max_bytes: int = -1) -> dict[str, dict[str, Any]]:
    """Each stream's configuration by name. Asynchronous persistence is for a single replica only."""
    streams: dict[str, dict[str, Any]] = json.loads(_DEFINITIONS.read_text())
    for name, stream in streams.items():
        stream |= {"name": name, "num_replicas": replicas}
        if replicas > 1:
            stream.pop("persist_mode", None)
    streams[subjects.EVENTS]["max_bytes"] = events_max_bytes
    return streams


async def migrate_streams(connection: Client, replicas: int, events_max_bytes: int = -1) -> list[str]:
    """Make the streams that are missing and return their names. Raises ConfigurationError when one differs."""
    made = []
    for name, wanted in definitions(replicas, events_max_bytes).items():
        info = await _api(connection, f"STREAM.INFO.{name}", {})
        if info.get("error", {}).get("err_code") == _STREAM_NOT_FOUND:
            given = wanted | {"metadata": {EPOCH: new_id()}} if name == subjects.EVENTS else wanted
            _check(name, await _api(connection, f"STREAM.CREATE.{name}", given))
            made.append(name)
            continue
        _check(name, info)
        if differences := differing(wanted, info["config"]):
            raise ConfigurationError(
                f"The stream {name} is not as this version needs it: {'; '.join(differences)}. "
                "Change it by hand, or find out who did."
            )
        if name == subjects.EVENTS:
            await _name_epoch(connection, info)
    return made


async def check_streams(connection: Client, replicas: int, events_max_bytes: int = -1) -> list[str]:
    """What is wrong with the streams, as sentences; empty when all is well."""
    faults = []
    for name, wanted in definitions(replicas, events_max_bytes).items():
        info = await _api(connection, f"STREAM.INFO.{name}", {})
        if "error" in info:
            faults.append(f"{name}: {info['error'].get('description')}")
        else:
            faults += [f"{name}: {difference}" for difference in differing(wanted, info["config"])]
    return faults


async def _name_epoch(connection: Client, info: dict[str, Any]) -> None:
    """Give a log that has none its name: when it was made, as that is what all who follow it know it by."""
    config = info["config"]
    metadata = config.get("metadata") or {}
    if EPOCH not in metadata:
        named = config | {"metadata": metadata | {EPOCH: info["created"]}}
        _check(subjects.EVENTS, await _api(connection, f"STREAM.UPDATE.{subjects.EVENTS}", named))


def differing(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Where a stream's configuration is not what it must be; fields that we do not name are the server's choice."""
    return [
        f"{field} is {found.get(field)!r} and must be {value!r}"
        for field, value in wanted.items()
        if field != "sources" and found.get(field, _absent(value)) != value
    ]


def _absent(value: Any) -> Any:
    """What a field means that the server leaves out of its answer."""
    return type(value)() if isinstance(value, bool | int | str) else None


def _check(name: str, answer: dict[str, Any]) -> None:
    if "error" in answer:
        raise ConfigurationError(f"NATS refused the stream {name}: {answer['error'].get('description')}")


async def _api(connection: Client, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = await connection.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=_REQUEST_TIMEOUT_S)
    except nats.errors.NoRespondersError as error:
        raise ConfigurationError("JetStream is not enabled on this NATS server.") from error
    except nats.errors.Error as error:
        raise UnavailableError("NATS does not answer.") from error
    result: dict[str, Any] = json.loads(answer.data)
    return result
