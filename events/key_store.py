"""Where wrapped keys are: one document a company in the stream KEYS, replaced as a whole and erased for good.

    {"v":1,"whole":true,"generations":[{"wrapped":"main:…"},…]}        or        {"v":1,"erased_at":"…"}

A new document is written before its predecessors are erased: the server overwrites the bytes of an erased message in
its files (JetStream API STREAM.MSG.DELETE, `no_erase` false), so that no wrapped key outlives its document.
"""

import base64
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats.errors
from nats.aio.client import Client

from events import strictjson, subjects
from events.errors import StateConflictError, UnavailableError, VersionConflictError
from events.keys import KEY_BYTES, CompanyKeys, DataKey, KeyMissingError, KeyWrapper, Owner, name_key

VERSION = 1
REQUEST_TIMEOUT_S = 5.0
_NO_MESSAGE = 10037
_WRONG_LAST_SEQUENCE = (10071, 10164)


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """What KEYS holds of a company. `sequence` 0: nothing. `generations` are wrapped, the first is number 1."""

    owner: Owner
    sequence: int = 0
    whole: bool = False
    generations: tuple[str, ...] = ()
    erased_at: str | None = None


class KeyStore:
    """Documents of KEYS. Every method raises UnavailableError when NATS does not answer."""

    def __init__(self, connection: Client, wrapper: KeyWrapper) -> None:
        self._nc = connection
        self.wrapper = wrapper

    async def read(self, owner: Owner) -> KeyDocument:
        """The document of a company, as the stream's leader has it."""
        found = await self._message({"last_by_subj": subjects.keys(*owner)})
        return KeyDocument(owner) if found is None else _document(found)

    async def documents(self) -> AsyncIterator[KeyDocument]:
        """The newest document of every company."""
        after = 0
        while (found := await self._message({"seq": after + 1, "next_by_subj": subjects.keys("*", "*")})) is not None:
            after = found["seq"]
            document = _document(found)
            if (await self.read(document.owner)).sequence == after:
                yield document

    async def open(self, document: KeyDocument) -> CompanyKeys | None:
        """The keys themselves; None when the company has none, and so is not encrypted."""
        if document.erased_at is not None:
            return CompanyKeys({}, erased=True)
        if not document.generations:
            return None
        keys = {
            number: await self.wrapper.unwrap(wrapped, _context(document.owner, number))
            for number, wrapped in enumerate(document.generations, start=1)
        }
        return CompanyKeys({number: DataKey(key) for number, key in keys.items()}, name_key(keys[1]), document.whole)

    async def create(self, owner: Owner) -> None:
        """The first key of a company that is about to be created; nothing when it has one."""
        document = await self.read(owner)
        if not document.sequence:
            await self._add(document, whole=True)

    async def rotate(self, owner: Owner) -> int:
        """One more generation, which seals from now on; its number. Raises StateConflictError for an erased company."""
        document = await self.read(owner)
        if document.erased_at is not None:
            raise StateConflictError(f"The company {owner.company_id} is erased, and so are its keys.", code="erased")
        await self._add(document, whole=document.whole)
        return len(document.generations) + 1

    async def rewrap(self, document: KeyDocument) -> bool:
        """Wrap a company's keys by the present master key; whether there was any to wrap. Raises VersionConflictError.

        Also erases what somebody could not who was killed after it had written the document.
        """
        if all(self.wrapper.is_current(wrapped) for wrapped in document.generations):
            await self._erase_before(document.owner, document.sequence)
            return False
        fresh = []
        for number, wrapped in enumerate(document.generations, start=1):
            context = _context(document.owner, number)
            fresh.append(await self.wrapper.wrap(await self.wrapper.unwrap(wrapped, context), context))
        await self._replace(document, _plain(document.whole, fresh))
        return True

    async def erase(self, owner: Owner, at: datetime) -> None:
        """Destroy a company's keys for good; done twice, it does no more than once."""
        while (document := await self.read(owner)).erased_at is None:
            try:
                await self._replace(document, {"v": VERSION, "erased_at": at.isoformat()})
            except VersionConflictError:
                continue  # somebody else erases it too, or rotated its keys in this moment: look again
        await self._erase_before(owner, document.sequence)

    async def absent_replicas(self) -> list[str]:
        """Nodes that do not overwrite now what is erased, and keep its bytes when they are back. For an operator."""
        info = await self._request(f"$JS.API.STREAM.INFO.{subjects.KEYS}", b"")
        if error := info.get("error"):
            raise UnavailableError(f"KEYS cannot be looked at: {error.get('description')}")
        return absent_in(info)

    async def _add(self, document: KeyDocument, *, whole: bool) -> None:
        number = len(document.generations) + 1
        wrapped = await self.wrapper.wrap(os.urandom(KEY_BYTES), _context(document.owner, number))
        try:
            await self._replace(document, _plain(whole, [*document.generations, wrapped]))
        except VersionConflictError:
            if number > 1:  # a first key that somebody else made meanwhile is as good
                raise

    async def _replace(self, document: KeyDocument, plain: dict[str, Any]) -> None:
        """Raises VersionConflictError when somebody else replaced it meanwhile."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(document.sequence)}
        answer = await self._request(subjects.keys(*document.owner), strictjson.dumps(plain), headers)
        if error := answer.get("error"):
            if error.get("err_code") in _WRONG_LAST_SEQUENCE:
                raise VersionConflictError("The company's keys were changed meanwhile; try again.")
            raise UnavailableError(f"KEYS refused a document: {error.get('description')}")
        await self._erase_before(document.owner, int(answer["seq"]))

    async def _erase_before(self, owner: Owner, sequence: int) -> None:
        """Erase the earlier documents of a company, and their bytes."""
        after = 0
        while (found := await self._message({"seq": after + 1, "next_by_subj": subjects.keys(*owner)})) is not None:
            after = found["seq"]
            if after >= sequence:
                return
            request = strictjson.dumps({"seq": after, "no_erase": False})
            answer = await self._request(f"$JS.API.STREAM.MSG.DELETE.{subjects.KEYS}", request)
            if (error := answer.get("error")) and await self._is_there(owner, after):
                raise UnavailableError(f"KEYS did not erase a document: {error.get('description')}")

    async def _is_there(self, owner: Owner, sequence: int) -> bool:
        """Whether a document has not been erased by somebody else meanwhile."""
        found = await self._message({"seq": sequence, "next_by_subj": subjects.keys(*owner)})
        return found is not None and found["seq"] == sequence

    async def _message(self, request: dict[str, Any]) -> dict[str, Any] | None:
        answer = await self._request(f"$JS.API.STREAM.MSG.GET.{subjects.KEYS}", strictjson.dumps(request))
        if error := answer.get("error"):
            if error.get("err_code") == _NO_MESSAGE:
                return None
            raise UnavailableError(f"KEYS cannot be read: {error.get('description')}")
        message: dict[str, Any] = answer["message"]
        return message

    async def _request(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = await self._nc.request(subject, body, timeout=REQUEST_TIMEOUT_S, headers=headers)
        except nats.errors.Error as error:
            raise UnavailableError("The store of keys does not answer.") from error
        plain: dict[str, Any] = strictjson.loads(answer.data)
        return plain


def _document(message: dict[str, Any]) -> KeyDocument:
    _, org_id, company_id = message["subject"].split(".")
    plain = strictjson.loads(base64.b64decode(message["data"]))
    if plain["v"] != VERSION:
        raise KeyMissingError(f"A document of KEYS has version {plain['v']}; this program reads {VERSION}.")
    return KeyDocument(
        Owner(org_id, company_id),
        message["seq"],
        plain.get("whole", False),
        tuple(generation["wrapped"] for generation in plain.get("generations", ())),
        plain.get("erased_at"),
    )


def _plain(whole: bool, generations: list[str]) -> dict[str, Any]:
    return {"v": VERSION, "whole": whole, "generations": [{"wrapped": wrapped} for wrapped in generations]}


def _context(owner: Owner, number: int) -> bytes:
    """What a wrapped key is bound to: it unwraps as no other company's, and as no other generation."""
    return f"{owner.org_id}/{owner.company_id}/{number}".encode()


def absent_in(info: dict[str, Any]) -> list[str]:
    """Of a stream's info (STREAM.INFO): the replicas that are offline, or not up to date."""
    replicas = (info.get("cluster") or {}).get("replicas") or ()
    return [replica["name"] for replica in replicas if replica.get("offline") or not replica.get("current")]
