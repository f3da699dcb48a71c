"""Schemathesis over the OpenAPI document, with each role: no server error, no answer outside the document.

Valid bodies and broken ones, the same in every run. Real ids of the caller's own company are put in the place of every
other generated one, so that not all ends with 404. Nothing is left out; one thing is bounded: `min_position`, which is
answered with 503 after five seconds when it lies in the future (a test of its own below).
"""

from dataclasses import dataclass, field
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)  # fmt: skip

from cli.system import Endpoints
from gateway.models import POSITION_MAX
from gateway.permissions import ENDPOINTS, ROLES, Role
from tests.security.support import LEDGER, Things, World, build_world

EXAMPLES = {GenerationMode.POSITIVE: 6, GenerationMode.NEGATIVE: 6}
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
ANSWERS = {200, 201, 400, 401, 403, 404, 405, 409, 413, 415, 422}
FUTURE = 50


@pytest.fixture(scope="module")
async def fuzzed(client: httpx.AsyncClient, endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of its own: what is fuzzed is archived, revoked and renamed."""
    return await build_world(client, endpoints, str(tmp_path_factory.mktemp("fuzzed") / "attempts"))


@pytest.fixture(scope="module")
def document(endpoints: Endpoints) -> Any:
    return schemathesis.openapi.from_url(f"{endpoints.gateway_url}/openapi.json")


def test_the_document_holds_every_endpoint(document: Any) -> None:
    paths = {result.ok().path for result in document.get_all_operations()}
    assert paths == {*ENDPOINTS, "/health"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("mode", EXAMPLES, ids=lambda mode: mode.value)
def test_fuzz(role: Role, mode: GenerationMode, document: Any, fuzzed: World, endpoints: Endpoints) -> None:
    caller = fuzzed.callers[role, "token"]
    send = Sender(endpoints.gateway_url, caller.credential, fuzzed.own)
    for result in document.get_all_operations():
        fuzz(result.ok(), mode, send)
    assert send.calls > len(ENDPOINTS) * 3
    assert send.seen >= ({200, 404, 422} if mode == GenerationMode.POSITIVE else {422})


@dataclass
class Sender:
    """Sends generated cases as one caller, and counts."""

    base_url: str
    credential: str
    own: Things
    calls: int = 0
    seen: set[int] = field(default_factory=set)

    def __call__(self, case: Any, *, real: bool) -> Any:
        self.calls += 1
        case.body = tamed(case.body, self.own if real else None)
        if real:
            case.headers.pop("X-Data-Engine-Org", None)  # a random one ends every call with 401
        response = case.call(base_url=self.base_url, headers={"Authorization": f"Bearer {self.credential}"})
        self.seen.add(response.status_code)
        if response.status_code >= 400:
            LEDGER.errors.add(response.text)
        assert response.status_code in ANSWERS, (case.path, case.body, response.text)
        return response


def fuzz(operation: Any, mode: GenerationMode, send: Sender) -> None:
    """Generate bodies and headers for one endpoint, send them, and check every answer."""
    negative = mode == GenerationMode.NEGATIVE
    if negative and operation.path == "/health":
        return  # it takes nothing, so nothing of it can be broken

    @hypothesis.settings(
        max_examples=EXAMPLES[mode],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), real=hypothesis.strategies.booleans())
    def attack(case: Any, real: bool) -> None:
        response = send(case, real=real and not negative)
        case.validate_response(response, checks=[*CHECKS, negative_data_rejection] if negative else CHECKS)

    attack()


def tamed(body: Any, things: Things | None) -> Any:
    """The body with a `min_position` that there is, and, if asked for, with ids that there are."""
    if not isinstance(body, dict):
        return body
    changed = dict(body)
    for name in ("min_position", "position"):  # audit/checkpoint waits for a `position` too
        position = changed.get(name)
        if isinstance(position, int) and not isinstance(position, bool) and FUTURE < position <= POSITION_MAX:
            changed[name] = position % FUTURE
    if things is not None:
        for name, value in body.items():
            if isinstance(value, str) and len(value) == 36 and hasattr(things, name):
                changed[name] = getattr(things, name)
    return changed


async def test_a_position_of_the_future_is_waited_for_and_then_said_to_be_ahead(world: World) -> None:
    answer = await world.admin.ask("orgs/get", {"min_position": POSITION_MAX})
    assert (answer.status_code, answer.json()["code"]) == (503, "projection_behind")
    assert answer.headers["retry-after"] == "1"
