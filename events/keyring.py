"""The keys that a process has at hand: looked up once, kept for a moment, forgotten when their company is erased."""

import time
from collections import OrderedDict
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from nats.aio.client import Client
from nats.aio.msg import Msg

from events import strictjson, subjects
from events.errors import ConfigurationError, ErasedError, UnavailableError
from events.key_store import KeyStore
from events.keys import CompanyKeys, KeyMissingError, KeyWrapper, MasterKeys, Owner
from events.logging import get_logger
from events.settings import Settings
from events.subjects import Address

KEPT_MAX = 10_000
KEPT_S = 10.0
"""How long a key is used before it is asked for again: so long at most one that was erased can still be used."""
NONE_KEPT_S = 1.0
"""How long it is believed that a company has no key."""

_logger = get_logger("keys")

ERASED = CompanyKeys({}, erased=True)


class Keyring:
    """Keys by company. Without a wrapper nothing is sealed, and nothing that is sealed can be read."""

    def __init__(self, store: KeyStore | None = None) -> None:
        self.store = store
        self._kept: OrderedDict[Owner, tuple[CompanyKeys | None, float]] = OrderedDict()
        self._erased: set[Owner] = set()

    @property
    def sealing(self) -> bool:
        """Whether companies are encrypted here."""
        return self.store is not None

    async def of(self, owner: Owner) -> CompanyKeys | None:
        """The keys of a company; None: what it has is not encrypted. Raises UnavailableError."""
        if self.store is None:
            return None
        if owner in self._erased:
            return ERASED
        kept = self._kept.get(owner)
        if kept is not None and kept[1] > time.monotonic():
            return kept[0]
        return await self._fetch(self.store, owner)

    async def to_write(self, owner: Owner) -> CompanyKeys | None:
        """As `of`, for somebody who is about to store something. Raises ErasedError."""
        keys = await self.of(owner)
        if keys is not None and keys.erased:
            raise ErasedError(f"The company {owner.company_id} is erased: nothing of it is stored any more.")
        return keys

    async def load(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Have the keys of these messages (subject, body) at hand, for `held`. Raises UnavailableError."""
        wanted: dict[Owner, int] = {}
        for subject, body in messages:
            if body.startswith(subjects.SEALED_PREFIX) and (found := _sealed_for(subject, body)) is not None:
                wanted[found[0]] = max(found[1], wanted.get(found[0], 0))
        for owner, generation in wanted.items():
            if self.store is None:
                raise UnavailableError(
                    "The log has encrypted decisions, and this process has no key: set DATA_ENGINE_MASTER_KEYS."
                )
            keys = await self.of(owner)
            if keys is None or not (keys.erased or generation in keys.generations):
                keys = await self._fetch(self.store, owner)
            if keys is None or not (keys.erased or generation in keys.generations):
                raise KeyMissingError(
                    f"Generation {generation} of the key of company {owner.company_id} is not in KEYS. Was the stream "
                    "restored from an older copy, or is another one?"
                )

    def held(self, owner: Owner) -> CompanyKeys:
        """The keys of a company that `load` was told of. Raises KeyMissingError when it was not."""
        if owner in self._erased:
            return ERASED
        kept = self._kept.get(owner)
        if kept is None or kept[0] is None:
            raise KeyMissingError(f"The key of company {owner.company_id} is not at hand.")
        return kept[0]

    def look_again(self, owner: Owner) -> None:
        """There may be another key of the company now."""
        self._kept.pop(owner, None)

    async def listen(self, connection: Client) -> None:
        """Hear of erased companies from now on."""
        await connection.subscribe(subjects.ERASED, cb=self._on_erased)

    async def _on_erased(self, message: Msg) -> None:
        try:
            told = strictjson.loads(message.data)
            self.forget(Owner(told["org"], told["company"]))
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("signal_not_understood", error=repr(error))

    def forget(self, owner: Owner) -> None:
        """The company is erased: its keys are used no more, whatever KEYS says for another moment."""
        self._erased.add(owner)
        self._kept.pop(owner, None)

    async def _fetch(self, store: KeyStore, owner: Owner) -> CompanyKeys | None:
        keys = await store.open(await store.read(owner))
        if owner in self._erased:
            return ERASED
        self._kept[owner] = (keys, time.monotonic() + (NONE_KEPT_S if keys is None else KEPT_S))
        self._kept.move_to_end(owner)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return keys


_rings: WeakKeyDictionary[Client, Keyring] = WeakKeyDictionary()


def use_keys(connection: Client, wrapper: KeyWrapper | None) -> Keyring:
    """From now on, whoever reads or writes over this connection has these keys."""
    ring = Keyring(None if wrapper is None else KeyStore(connection, wrapper))
    _rings[connection] = ring
    return ring


def keyring_of(connection: Client) -> Keyring:
    """The keys of a connection; one that was given none seals nothing."""
    ring = _rings.get(connection)
    return use_keys(connection, None) if ring is None else ring


def wrapper_of(settings: Settings) -> KeyWrapper | None:
    """What wraps keys by these settings; None: nothing is encrypted. Raises ConfigurationError."""
    return None if settings.master_keys is None else MasterKeys(settings.master_keys.get_secret_value())


def required_store(connection: Client, settings: Settings) -> KeyStore:
    """The store of keys, for an operator's commands. Raises ConfigurationError when no master key is set."""
    wrapper = wrapper_of(settings)
    if wrapper is None:
        raise ConfigurationError(
            "No master key is set here. Set DATA_ENGINE_MASTER_KEYS to what the processes have; where they have none, "
            "nothing is encrypted."
        )
    return KeyStore(connection, wrapper)


def _sealed_for(subject: str, body: bytes) -> tuple[Owner, int] | None:
    """Whose key, and which generation, a sealed decision needs; None when it is none: decoding will say so."""
    try:
        head, separator, _ = body.rpartition(subjects.BOX)
        envelope = strictjson.loads(head + b"}") if separator else {}
        return Owner(Address.parse(subject).org_id, str(envelope["company"])), int(envelope["key"])
    except (ValueError, KeyError, TypeError):
        return None
