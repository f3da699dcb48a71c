"""Asking a worker for a preview: several messages come back, and none for a while means that the worker is gone."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from events import subjects
from events.errors import LimitExceededError, UnavailableError, rejection_from_json
from events.preview import SILENCE_MAX_S, TIMEOUT_S, PreviewMessage, PreviewRequest, PreviewStep

RETRY_AFTER_S = 2.0
WAIT_MAX_S = 2 * TIMEOUT_S + SILENCE_MAX_S
"""For the whole answer: the wait for a turn, and the steps."""


class Previews:
    """The previews that this gateway waits for, a few of an org at the same time."""

    def __init__(self, connection: Client, per_org_max: int) -> None:
        self._nc = connection
        self._per_org_max = per_org_max
        self._under_way: Counter[str] = Counter()

    async def ask(self, request: PreviewRequest) -> list[PreviewStep]:
        """What each step did. Raises LimitExceededError, UnavailableError, and the RejectedError that was answered."""
        with self._one_more(request.org_id):
            return await self._ask(request)

    @contextmanager
    def _one_more(self, org_id: str) -> Iterator[None]:
        if self._under_way[org_id] >= self._per_org_max:
            raise LimitExceededError(
                f"The org has {self._per_org_max} previews under way already, the most at the same time.",
                code="limit_previews",
                limit=self._per_org_max,
                retry_after_s=RETRY_AFTER_S,
            )
        self._under_way[org_id] += 1
        try:
            yield
        finally:
            self._under_way[org_id] -= 1
            if not self._under_way[org_id]:
                del self._under_way[org_id]

    async def _ask(self, request: PreviewRequest) -> list[PreviewStep]:
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox, cb=answers.put)
        steps: list[PreviewStep] = []
        try:
            await self._nc.publish(subjects.PREVIEW, request.model_dump_json().encode(), reply=inbox)
            async with asyncio.timeout(WAIT_MAX_S):
                while (step := _read(await _next(answers))) != "end":
                    if isinstance(step, PreviewStep):
                        steps.append(step)
        except TimeoutError as error:
            raise UnavailableError(
                f"The worker that ran the preview is gone after {len(steps)} of {len(request.steps)} steps; ask again."
            ) from error
        except nats.errors.Error as error:
            raise UnavailableError("NATS does not answer; ask again.") from error
        finally:
            await subscription.unsubscribe()
        return steps


async def _next(answers: asyncio.Queue[Msg]) -> Msg:
    async with asyncio.timeout(SILENCE_MAX_S):
        return await answers.get()


def _read(message: Msg) -> PreviewStep | str:
    """A step, or the kind of another message. Raises what it refuses."""
    if "Status" in (message.headers or {}):
        raise UnavailableError("No worker is there to run a preview; ask again when one is.")
    try:
        answer = PreviewMessage.model_validate_json(message.data)
    except ValidationError as error:
        raise UnavailableError("The worker's answer is not understood: it is of another version.") from error
    if answer.refused is not None:
        raise rejection_from_json(answer.refused)
    if answer.kind == "unavailable":
        raise UnavailableError(answer.message or "The preview could not be made now; ask again.")
    return answer.step or answer.kind
