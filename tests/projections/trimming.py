"""Cutting the log's beginning off, as `dex log trim` would, but at once and at any position."""

import base64
import json
from typing import Any

from events import subjects
from events.log import TRIMMED_TO
from tests.projections.support import TIMEOUT_S, World


async def api(world: World, subject: str, body: Any = None) -> dict[str, Any]:
    """A request to JetStream that must succeed."""
    request = b"" if body is None else json.dumps(body).encode()
    answer: dict[str, Any] = json.loads((await world.nats.request(f"$JS.API.{subject}", request, timeout=5)).data)
    assert "error" not in answer, answer
    return answer


async def trim_to(world: World, position: int) -> None:
    """Have the stream drop all up to a position."""
    await _make_anew(world, position, (await world.log.state()).last_position)


async def put_back_an_older_copy(world: World, until: int) -> None:
    """Have the stream as it was when it went up to a position."""
    await _make_anew(world, 0, until)


async def _make_anew(world: World, position: int, until: int) -> None:
    """Messages after one position up to another are stored anew, in a stream that begins there, of the same epoch."""
    config = (await api(world, f"STREAM.INFO.{subjects.EVENTS}"))["config"]
    state = await world.log.state()
    kept = [
        (await api(world, f"STREAM.MSG.GET.{subjects.EVENTS}", {"seq": at}))["message"]
        for at in range(position + 1, until + 1)
    ]
    await api(world, f"STREAM.DELETE.{subjects.EVENTS}")
    metadata = {
        **{k: v for k, v in config.get("metadata", {}).items() if not k.startswith("_nats")},
        **({TRIMMED_TO: str(position)} if position else {}),
        "data_engine.epoch": state.epoch,
    }
    await api(world, f"STREAM.CREATE.{subjects.EVENTS}", {**config, "metadata": metadata, "first_seq": position + 1})
    for message in kept:
        await world.nats.request(message["subject"], base64.b64decode(message["data"]), timeout=TIMEOUT_S)
