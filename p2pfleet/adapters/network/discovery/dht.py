"""The DHT: that the nodes of a network find each other, and publishers their jobs.

Every node provides one key, the network's rendezvous. The library answers a look-up from its own
store as soon as that holds one record, and keeps a record for two days and the first twenty of a
key; both would hide newcomers. So look-ups are made here, and records live for minutes.

Beside that the DHT holds values of one namespace, which a rule of the core judges before they are
stored: publishers' signed records of their jobs.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.kad_dht import kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderRecord, ProviderStore
from libp2p.kad_dht.routing_table import KBucket
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service import background_trio_service

from p2pfleet.adapters.network.addresses import usable
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import (
    TimedHandler,
    contain_tasks,
    describe,
    refused,
)
from p2pfleet.adapters.network.guard.limits import Buckets
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.core.errors import Malformed, Reject, Verdict
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.rules.jobs_record import NAMESPACE
from p2pfleet.core.wire.names import rendezvous_key
from p2pfleet.ports import RecordRule

logger = logging.getLogger(__name__)

_MAX_VALUES = 512
_MAX_KEYS_OF_ONE = 32
_MAX_KEYS = 512
_MAX_PROVIDERS = 64
_MAX_RECORDS = 2048
_MAX_MESSAGE_BYTES = 128 * 1024
_MAX_ADDRESSES = 8
_RECORD_S = 900.0
_QUERIED = 8
_QUERY_S = 5.0
_LOOKUP_S = 30.0
_ADDRESS_TTL_S = 3600
_PROVIDES_PER_S = 1.0
_PROVIDES_AT_ONCE = 64.0
"""A node provides one key, to each other a few times when it starts, then every few minutes."""

Report = Callable[[PeerId, Verdict], None]


class _Providers(ProviderStore):  # type: ignore[misc]
    """Provider records: the newest of a key, for a quarter of an hour, of few keys.

    Records of keys that this node does not provide itself give way to each other, the key's that
    was provided longest ago first: nobody can push this network's own out.
    """

    own: bytes = b""
    """The key of this network."""
    report: Report

    def add_provider(self, key: bytes, provider: Any) -> None:
        if not provider or not provider.peer_id:
            return
        told = provider.addrs[: 2 * _MAX_ADDRESSES]
        found = [address for address in told if usable(address)][:_MAX_ADDRESSES]
        if not found:
            return
        name = str(provider.peer_id)
        if name not in self.providers.get(key, ()) and not self._has_room(name):
            # Only its own records get here, and it has no use for so many keys.
            _blame(self.report, provider.peer_id, "says that it provides more keys than it can")
            return
        records = self.providers.pop(key, {})
        self.providers[key] = records
        records.pop(name, None)
        records[name] = ProviderRecord(PeerInfo(provider.peer_id, found))
        while len(records) > _MAX_PROVIDERS:
            del records[next(iter(records))]
        while len(self.providers) > _MAX_KEYS or self._records() > _MAX_RECORDS:
            spare = next((one for one in self.providers if one != self.own), None)
            if spare is None:
                break
            del self.providers[spare]

    def _has_room(self, name: str) -> bool:
        """Whether one more record of this provider is kept: nobody fills the store alone."""
        return sum(name in records for records in self.providers.values()) < _MAX_KEYS_OF_ONE

    def _records(self) -> int:
        return sum(map(len, self.providers.values()))

    def get_providers(self, key: bytes) -> list[Any]:
        since = time.time() - _RECORD_S
        records = self.providers.get(key, {})
        for name in [name for name, one in records.items() if one.timestamp < since]:
            del records[name]
        if not records:
            self.providers.pop(key, None)
        return [PeerInfo(one.peer_id, one.addresses) for one in records.values()]


class _Values(ValueStore):  # type: ignore[misc]
    """Values: few, and only what the library has judged by our rule."""

    def _evict_if_full(self) -> None:
        while len(self.store) >= _MAX_VALUES:
            del self.store[next(iter(self.store))]


class _Rule(Validator):  # type: ignore[misc]
    """Our rule for values, as the library asks for it."""

    def __init__(self, rule: RecordRule) -> None:
        self._rule = rule

    def validate(self, key: str, value: bytes) -> None:
        self._rule.validate(key, value)

    def select(self, key: str, values: list[bytes]) -> int:
        return self._rule.select(key, values)


def _blame(report: Report, identity: Any, reason: str) -> None:
    refused(identity, reason)
    peer = peer_of(identity)
    if peer is not None:
        report(peer, Reject(reason))


async def _is_connected(bucket: KBucket, identity: Any) -> bool:
    """Instead of the ping with which the library decides whether a full bucket keeps its oldest.

    It opens a stream, and perhaps a connection, for every node that is heard of.
    """
    return identity in bucket.host.get_network().connections


class Rendezvous:
    """Provides the network's key and looks for those who do."""

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        network: NetworkId,
        peers: Callable[[], int],
        found: Callable[[PeerId, list[str]], None],
        report: Report,
        records: RecordRule | None = None,
    ) -> None:
        self._config = config
        self._host = host
        self._report = report
        self._key = rendezvous_key(network)
        self._peers = peers
        self._found = found
        self._records = records
        self._joined = trio.Event()
        self._lost = trio.Event()
        self._stale = trio.Event()
        KBucket._ping_peer = _is_connected
        # Megabytes of strangers' addresses are no answer to anything that is asked here.
        for module in (kad_dht, peer_routing, provider_store, value_store):
            module.MAX_DHT_MESSAGE_SIZE = _MAX_MESSAGE_BYTES
        self._dht = KadDHT(
            host,
            DHTMode.SERVER,
            # Of one namespace, by one rule; or nobody can store values here.
            validator=NamespacedValidator(
                {} if records is None else {NAMESPACE: _Rule(records)}, strict_validation=True
            ),
            validator_changed=True,
            strict_validation=True,
        )
        self._provides = Buckets(_PROVIDES_PER_S, _PROVIDES_AT_ONCE)
        self._dht._check_provider_rate_limit = self._may_provide
        self._dht.provider_store = _Providers(host, self._dht.peer_routing)
        self._dht.provider_store.report = report
        self._dht.value_store = _Values(host, host.get_id())
        self._dht.provider_store.own = self._key
        # Twelve for everybody would let four strangers keep everybody out; each has its own limit.
        self._dht._inbound_limiter = trio.CapacityLimiter(256)
        host.set_stream_handler(
            PROTOCOL_ID, TimedHandler(PROTOCOL_ID, self._dht.handle_stream, 60.0, 3)
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the DHT and the rendezvous for as long as the context lasts."""
        async with background_trio_service(self._dht) as manager:
            contain_tasks(manager)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._contained, self._provide)
                nursery.start_soon(self._contained, self._look)
                yield
                nursery.cancel_scope.cancel()

    async def connected(self, peer: PeerId, addresses: list[Any]) -> None:
        """Tell the routing table; ``addresses`` are those the peer listens on."""
        if addresses:
            identity = library_id(peer)
            self._host.get_peerstore().add_addrs(identity, addresses, _ADDRESS_TTL_S)
            await self._dht.routing_table.add_peer(PeerInfo(identity, addresses))
        self._joined.set()

    def provide_soon(self) -> None:
        """The addresses of this node are others now."""
        self._stale.set()

    def lost(self) -> None:
        """A peer went: look for others soon."""
        self._lost.set()

    def _may_provide(self, identity: Any) -> bool:
        """Whether to look at one more record of a peer; the library ends its stream otherwise."""
        if self._provides[identity.to_bytes()].take():
            return True
        _blame(self._report, identity, "tells of providers without end")
        return False

    # ---- values ------------------------------------------------------------------------------

    async def put_record(self, key: str, data: bytes) -> bool:
        """Store a value with the nodes nearest to its key; whether anybody took it."""
        if self._records is None:
            return False
        name = key.encode()
        try:
            self._records.validate(key, data)
        except Malformed as error:
            logger.debug("a record of ours is not stored: %s", error)
            return False
        self._dht.value_store.put(name, data)
        took: list[bool] = []

        async def give(identity: Any) -> None:
            with trio.move_on_after(_QUERY_S):
                took.append(await self._dht.value_store._store_at_peer(identity, name, data))

        await self._with_nearest(name, give)
        return any(took)

    async def get_record(self, key: str) -> bytes | None:
        """The best of the valid values that this node and the nearest others have for a key."""
        if self._records is None:
            return None
        rule, name = self._records, key.encode()
        kept = self._dht.value_store.get(name)
        found: list[bytes] = [] if kept is None else [kept.value]

        async def ask(identity: Any) -> None:
            with trio.move_on_after(_QUERY_S):
                value = await self._dht.value_store._get_from_peer(identity, name)
                if isinstance(value, bytes):
                    rule.validate(key, value)
                    found.append(value)

        await self._with_nearest(name, ask)
        return found[rule.select(key, found)] if found else None

    async def _with_nearest(self, name: bytes, act: Callable[[Any], Any]) -> None:
        """Do something with the nodes nearest to a key, and with some that are connected anyway."""

        async def contained(identity: Any) -> None:
            try:
                await act(identity)
            except Exception as error:
                logger.debug("a value of the DHT: %s", describe(error))

        with trio.move_on_after(_LOOKUP_S):
            await self._joined.wait()
            known = self._dht.routing_table.find_local_closest_peers(name, _MAX_PROVIDERS)
            nearest = [one for one in known if one in self._host.get_network().connections]
            nearest = nearest[:_QUERIED]
            with trio.move_on_after(_LOOKUP_S / 2):
                try:
                    nearest += await self._dht.peer_routing.find_closest_peers_network(name)
                except Exception as error:
                    logger.debug("nearest nodes: %s", describe(error))
            async with trio.open_nursery() as nursery:
                for identity in list(dict.fromkeys(nearest))[: 2 * _QUERIED]:
                    if identity != self._host.get_id():
                        nursery.start_soon(contained, identity)

    async def _contained(self, task: Callable[[], Any]) -> None:
        while True:
            try:
                await task()
            except Exception as error:
                logger.debug("rendezvous: %s", describe(error))
                await trio.sleep(5.0)

    async def _provide(self) -> None:
        await self._joined.wait()
        # The first nodes met are rarely the ones that keep the key: again once more are known.
        for pause in (2.0, 8.0, 20.0):
            await self._provide_once(thorough=False)
            await trio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
        while True:
            await self._provide_once(thorough=True)
            if self._stale.is_set():
                self._lost.set()  # whom one can meet at a new address may be looking, too
            self._stale = trio.Event()
            pause = self._config.provide_every_s * random.uniform(0.7, 1.3)  # noqa: S311
            with trio.move_on_after(pause) as waiting:
                await self._stale.wait()
            if not waiting.cancelled_caught:
                await trio.sleep(random.uniform(1.0, 3.0))  # noqa: S311

    # ---- other keys --------------------------------------------------------------------------

    async def provide(self, key: bytes) -> None:
        """Say that this node provides a key: with those nearest to it, connected or not."""
        with trio.move_on_after(_LOOKUP_S):
            await self._joined.wait()
            await self._near_provide(key)
            await self._dht.provider_store.provide(key)
        self._dht.provider_store.providing_keys.discard(key)  # whoever wants it says so again

    async def find(self, key: bytes) -> dict[PeerId, list[str]]:
        """Who says that it provides a key, and where it listens."""
        found: dict[PeerId, list[str]] = {}
        with trio.move_on_after(_LOOKUP_S):
            await self._joined.wait()
            self._tell(self._dht.provider_store.get_providers(key), found.__setitem__)
            nearest = self._nearest_connected(key)
            with trio.move_on_after(_LOOKUP_S / 2):
                try:
                    nearest += await self._dht.peer_routing.find_closest_peers_network(key)
                except Exception as error:
                    logger.debug("nearest nodes: %s", describe(error))
            async with trio.open_nursery() as nursery:
                for identity in list(dict.fromkeys(nearest))[: 2 * _QUERIED]:
                    if identity != self._host.get_id():
                        nursery.start_soon(self._ask, identity, key, found.__setitem__)
        return found

    async def where(self, peer: PeerId) -> list[str]:
        """Where a peer listens, as far as the nodes nearest to it know."""
        found: dict[PeerId, list[str]] = {}
        with trio.move_on_after(_LOOKUP_S):
            await self._joined.wait()
            info = await self._dht.find_peer(library_id(peer))
            if info is not None:
                self._tell([info], found.__setitem__)
        return found.get(peer, [])

    async def _near_provide(self, key: bytes) -> None:
        for identity in self._nearest_connected(key):
            with trio.move_on_after(_QUERY_S):
                await self._dht.provider_store._send_add_provider(identity, key)

    # ---- the network's key -------------------------------------------------------------------

    async def _provide_once(self, thorough: bool) -> None:
        with trio.move_on_after(_LOOKUP_S):
            if thorough:
                await self._dht.provider_store.provide(self._key)
                return
            await self._near_provide(self._key)

    def _nearest_connected(self, key: bytes) -> list[Any]:
        """The connected peers nearest to a key, as far as they take part in the DHT."""
        known = self._dht.routing_table.find_local_closest_peers(key, _MAX_PROVIDERS)
        connected = self._host.get_network().connections
        return [one for one in known if one in connected][:_QUERIED]

    async def _look(self) -> None:
        await self._joined.wait()
        await trio.sleep(self._config.lookup_first_s)
        pause = 1.0
        for turn in itertools.count():
            if self._peers() < self._config.target_peers:
                with trio.move_on_after(_LOOKUP_S):
                    await self._look_once(thorough=turn % 6 == 5)
            self._lost = trio.Event()
            with trio.move_on_after(pause * random.uniform(0.8, 1.2)) as waiting:  # noqa: S311
                await self._lost.wait()
            if waiting.cancelled_caught:
                pause = min(pause * 2, self._config.lookup_max_s)
            else:
                pause = 2.0
                await trio.sleep(random.uniform(0.5, 1.5))  # noqa: S311

    async def _look_once(self, thorough: bool) -> None:
        """Ask the nodes nearest to the key: those known, or after a search through the network."""
        dht = self._dht
        self._tell(dht.provider_store.get_providers(self._key), self._found)
        if thorough:
            nearest = await dht.peer_routing.find_closest_peers_network(self._key)
        else:
            nearest = self._nearest_connected(self._key)
            nearest = random.sample(nearest, min(len(nearest), _QUERIED // 2))
        async with trio.open_nursery() as nursery:
            for identity in nearest[:_QUERIED]:
                if identity != self._host.get_id():
                    nursery.start_soon(self._ask, identity, self._key, self._found)

    async def _ask(
        self, identity: Any, key: bytes, found: Callable[[PeerId, list[str]], None]
    ) -> None:
        with trio.move_on_after(_QUERY_S):
            try:
                store = self._dht.provider_store
                told, _ = await store._get_providers_from_peer_with_closers(identity, key)
                self._tell(told[:_MAX_PROVIDERS], found)
            except Exception as error:
                logger.debug("rendezvous look-up: %s", describe(error))

    def _tell(self, providers: list[Any], found: Callable[[PeerId, list[str]], None]) -> None:
        for info in providers:
            peer = peer_of(info.peer_id)
            addresses = [text for one in info.addrs[:_MAX_ADDRESSES] if (text := usable(one))]
            if peer is not None and addresses and info.peer_id != self._host.get_id():
                found(peer, addresses)
