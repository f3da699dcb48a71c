"""`dex replay --follow` while gateway, NATS and Postgres are killed under it, or stopped: no gap, and no double."""

import asyncio
import contextlib
import signal
import threading
import uuid
from collections.abc import AsyncIterator

import pytest

from cli.api import Api
from cli.replaying import decisions
from cli.system import System
from events.settings import Settings
from tests.system.client import Org, new_org
from tests.system.test_faults import insist

PATIENCE_S = 120
VICTIMS = (
    ("gateway", signal.SIGKILL), ("gateway", signal.SIGTERM), ("nats", signal.SIGKILL), ("postgres", signal.SIGKILL),
)  # fmt: skip
EACH = 6


@pytest.fixture
async def own_system(home) -> AsyncIterator[System]:
    settings = Settings(
        _env_file=None, home=home, port=0, step_modules=("tests.system.faulty_steps",), log_level="warning"
    )
    running = System(settings, lambda _name, _what: None)
    await running.start()
    yield running
    await running.stop(abruptly=True)


class Follower(threading.Thread):
    """What `dex replay --follow` gives, until a company of a name is created."""

    def __init__(self, org: Org) -> None:
        super().__init__(daemon=True)
        self._api = Api(org.base_url, org.token)
        self.last = f"the last one {uuid.uuid4()}"
        self.seen: list[dict] = []
        self.failed: BaseException | None = None
        self.begun = threading.Event()

    def run(self) -> None:
        try:
            for decision in decisions(self._api, {"after_position": 0, "follow": True}):
                self.seen.append(decision)
                self.begun.set()
                if any(event["data"].get("name") == self.last for event in decision["events"]):
                    return
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.failed = error


async def test_a_follower_goes_on_where_it_was(own_system):
    endpoints = own_system.endpoints
    org = await new_org(endpoints.gateway_url, endpoints.nats_url, endpoints.database_url)
    blueprint_id = await org.blueprint("test_count")
    follower = Follower(org)
    follower.start()
    assert await asyncio.to_thread(follower.begun.wait, PATIENCE_S)
    for victim, number in VICTIMS:
        body = {"company_id": org.company_id, "blueprint_id": blueprint_id, "records": [{"n": 1}]}
        writing = [insist(org, "submissions/create", body, str(uuid.uuid4())) for _ in range(EACH)]
        with contextlib.suppress(ProcessLookupError):
            own_system.supervisor.kill(victim, number)
        for made in await asyncio.wait_for(asyncio.gather(*writing), PATIENCE_S):
            await insist(org, "runs/get", {"run_id": made["run_id"], "wait_s": 5, "min_position": made["position"]})
        assert follower.failed is None, (victim, follower.failed)
    last = await insist(org, "companies/create", {"name": follower.last}, str(uuid.uuid4()))
    await asyncio.to_thread(follower.join, PATIENCE_S)
    assert (follower.is_alive(), follower.failed) == (False, None)
    listed, after = [], 0
    while after is not None:
        page = await insist(
            org, "events/list", {"limit": 500, "after_position": after, "min_position": last["position"]}
        )
        listed += page["items"]
        after = page["next_after_position"]
    assert follower.seen == [item for item in listed if item["position"] <= last["position"]]
    assert len(follower.seen) > len(VICTIMS) * EACH
    await org.http.aclose()
