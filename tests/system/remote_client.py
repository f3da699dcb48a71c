"""A step worker in another language, as docs/protocol.md says: it knows nats-py and json, and nothing of ours."""

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client

Serve = Callable[[dict], dict | bytes | None]


class RemoteWorker:
    """Serves one step: `answer` gets a request, and gives an answer, bytes to send as they are, or None for silence."""

    def __init__(self, url: str, answer: Serve, **announcement) -> None:
        self.announcement = {
            "protocol": 1,
            "key": "remote_upper",
            "version": "1",
            "summary": "Upper case.",
            "config_schema": {"type": "object", "properties": {"field": {"type": "string"}}, "required": ["field"]},
            **announcement,
        }
        self.requests: list[dict] = []
        self._url = url
        self._answer = answer
        self._nc: Client | None = None

    async def __aenter__(self) -> "RemoteWorker":
        user = urlsplit(self._url).username
        self._nc = await nats.connect(self._url, inbox_prefix=f"_INBOX_{user}")
        await self._nc.subscribe(f"steps.remote.{self.announcement['key']}", queue="workers", cb=self._asked)
        await self._nc.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._nc.close()

    async def announce(self) -> dict:
        """What the engine answers to the announcement."""
        reply = await self._nc.request("steps.announce", json.dumps(self.announcement).encode(), timeout=10)
        return json.loads(reply.data)

    async def _asked(self, message) -> None:
        request = json.loads(message.data)
        self.requests.append(request)
        answer = self._answer(request)
        if answer is not None:
            await message.respond(answer if isinstance(answer, bytes) else json.dumps(answer).encode())


def upper(request: dict) -> dict:
    """Texts of a field in upper case; a row whose value is no text is rejected."""
    name = request["config"]["field"]
    records, rejects = [], []
    for row, record in enumerate(request["records"]):
        value = record.get(name)
        if isinstance(value, str):
            records.append({**record, name: value.upper()})
        else:
            rejects.append({"row": row, "field": name, "code": "not_text", "value": value})
    return {"records": records, "rejects": rejects}
