"""The records behind a reference: inline in the log, or in the blob store. The caller has been checked before."""

from dataclasses import dataclass
from typing import Literal

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.blobs import BlobStore
from events.entities import EntitiesUpdated
from events.errors import ErasedError, NotFoundError, UnavailableError
from events.keyring import Keyring, keyring_of
from events.keys import Owner
from events.mapper import MAPPER, open_body
from events.model import Event
from events.payload import Format, Payload
from events.processing import StepReused, StepSucceeded, SubmissionCreated
from events.subjects import Address

REQUEST_TIMEOUT_S = 5.0

Kind = Literal["output", "rejects"]


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a batch of records is, as the read models know it; `step_index` is None for the records of a submission."""

    org_id: str
    company_id: str
    digest: str
    size_bytes: int
    inline: bool
    position: int
    step_index: int | None = None
    kind: Kind = "output"
    format: Format = "json"

    @property
    def owner(self) -> Owner:
        """Whose records they are."""
        return Owner(self.org_id, self.company_id)


class Payloads:
    """Fetches records by reference. Raises UnavailableError when they cannot be had now."""

    def __init__(self, connection: Client) -> None:
        self._nc = connection
        self._keyring = keyring_of(connection)
        self.blobs = BlobStore(connection)

    async def text(self, reference: Reference) -> bytes:
        """The JSON text of the records, as it was stored."""
        if not reference.inline:
            return await self.blobs.get(reference.owner, reference.digest, reference.size_bytes)
        payload = await self._inline(reference)
        return await self.blobs.load(reference.owner, payload)

    async def _inline(self, reference: Reference) -> Payload:
        """The payload in the log at the reference's position: one direct get, and only the event that is wanted."""
        try:
            subject = f"$JS.API.DIRECT.GET.{subjects.EVENTS}"
            request = strictjson.dumps({"seq": reference.position})
            message = await self._nc.request(subject, request, timeout=REQUEST_TIMEOUT_S)
        except nats.errors.Error as error:
            raise UnavailableError("The event log does not answer a read.") from error
        headers = message.headers or {}
        if "Status" in headers:
            raise NotFoundError(f"The log does not hold position {reference.position} any more.")
        address = Address.parse(headers["Nats-Subject"])
        if address.org_id != reference.org_id:
            raise UnavailableError("The read models do not fit the log; they have to be rebuilt.")
        await self._keyring.load([(headers["Nats-Subject"], message.data)])
        payload = _payload_in(headers["Nats-Subject"], message.data, self._keyring, reference)
        if payload is None or payload.digest != reference.digest:
            raise UnavailableError("The read models do not fit the log; they have to be rebuilt.")
        return payload


def _payload_in(subject: str, body: bytes, keyring: Keyring, reference: Reference) -> Payload | None:
    """The last events first: what is asked for most is the output of the last step. Raises ErasedError."""
    address, (_, items) = Address.parse(subject), open_body(subject, body, keyring)
    if items is None:
        raise ErasedError(f"The company {reference.company_id} is erased, and its records with it.")
    for item in reversed(items):
        if item["topic"] in _TOPICS:
            event = MAPPER.load_state(item["topic"], item["state"], address.aggregate_id, address.version)
            if (payload := _pick(event, reference)) is not None:
                return payload
    return None


def _pick(event: Event, reference: Reference) -> Payload | None:
    match event:
        case SubmissionCreated() if reference.step_index is None:
            return event.records
        case EntitiesUpdated() if reference.step_index is None:
            return event.snapshot
        case StepSucceeded() | StepReused() if event.step_index == reference.step_index:
            return event.rejects if reference.kind == "rejects" else event.output
    return None


_TOPICS = (StepSucceeded.TOPIC, StepReused.TOPIC, SubmissionCreated.TOPIC, EntitiesUpdated.TOPIC)
