"""Finding the nodes of the same network on the same LAN, by multicast DNS (RFC 6762, RFC 6763).

The name of the service carries the head of the network's id, so that only nodes of one network
answer each other. What somebody announces is only dialled: who is there shows in the handshake, and
whether it is of this network in its greeting. Only addresses in networks that this machine hangs on
itself are dialled, so that nobody on the LAN can point its nodes at a stranger.

The records are made as libp2p makes them: a TXT record ``dnsaddr=<multiaddress>`` for each address.
libp2p's own discovery is not used: it tells everybody's nodes, keeps whatever is announced, and
writes into the peer store from a thread of its own.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from p2pfleet.adapters.network.addresses import parse_dialable
from p2pfleet.adapters.network.containment import describe, shielded
from p2pfleet.adapters.network.nat.whereabouts import Interface, on_own_lan, own_interfaces
from p2pfleet.core.model.ids import NetworkId, PeerId

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 8
_MAX_KNOWN = 256
_MAX_WAITING = 32
_MAX_PARALLEL = 4
_MAX_TXT_BYTES = 255
_ASK_MS = 1500
_AGAIN_S = 30.0
_RETRY_S = 15.0
_CLOSE_S = 1.0


def service_type(network: NetworkId) -> str:
    """The DNS-SD type of a network's nodes (a name there has at most 15 characters)."""
    return f"_p2pf-{network.hex()[:10]}._tcp.local."


def texts(addresses: list[str]) -> dict[str, str]:
    """The TXT record that tells these full multiaddresses."""
    fit = [one for one in addresses if len(f"dnsaddr99={one}") <= _MAX_TXT_BYTES][:MAX_ADDRESSES]
    return {f"dnsaddr{number or ''}": one for number, one in enumerate(fit)}


def announced(
    properties: dict[bytes, bytes | None], interfaces: frozenset[Interface]
) -> tuple[PeerId, list[str]] | None:
    """The peer and its addresses on this LAN in a stranger's TXT record, if there are any."""
    peer: PeerId | None = None
    addresses: list[str] = []
    for key, value in list(properties.items())[: 2 * MAX_ADDRESSES]:
        if not key.startswith(b"dnsaddr") or value is None or len(value) > _MAX_TXT_BYTES:
            continue
        found = parse_dialable(value.decode("ascii", "replace"))
        if found is None or (peer is not None and found[0] != peer):
            continue
        if not found[1].startswith(("/ip4/", "/ip6/")) or "p2p-circuit" in found[1]:
            continue
        if on_own_lan(found[1].split("/")[2], interfaces):
            peer = found[0]
            addresses.append(found[1])
    return (peer, addresses[:MAX_ADDRESSES]) if peer is not None and addresses else None


class Lan:
    """Announces this node on the LAN and reports whom else it hears of."""

    def __init__(
        self,
        network: NetworkId,
        me: PeerId,
        addresses: Callable[[], tuple[str, ...]],
        found: Callable[[PeerId, list[str]], None],
    ) -> None:
        self._type = service_type(network)
        self._me = me
        self._addresses = addresses
        self._found = found
        # As RFC 6763 has it a name for people; nobody reads this one.
        self._name = f"{secrets.token_hex(16)}.{self._type}"
        self._heard: OrderedDict[str, float] = OrderedDict()
        self._moved = trio.Event()

    def moved(self) -> None:
        """The addresses of this machine are others now: announce them anew."""
        self._moved.set()

    async def run(self) -> None:
        """Announce and listen, for ever. What fails is tried again later."""
        while True:
            self._moved = trio.Event()
            interfaces = own_interfaces()
            told = [one for one in self._addresses() if self._tells(one, interfaces)]
            try:
                if told:
                    await self._serve(told, interfaces)
                else:
                    await self._moved.wait()
            except Exception as error:
                logger.debug("multicast DNS: %s", describe(error))
                with trio.move_on_after(_RETRY_S):
                    await self._moved.wait()

    def _tells(self, address: str, interfaces: frozenset[Interface]) -> bool:
        """Whether an own address is one on a LAN."""
        parsed = parse_dialable(address)
        return (
            parsed is not None
            and "p2p-circuit" not in address
            and on_own_lan(address.split("/")[2], interfaces)
        )

    async def _serve(self, told: list[str], interfaces: frozenset[Interface]) -> None:
        """Until this machine has other addresses."""
        from zeroconf import ServiceBrowser, Zeroconf

        hosts = list(dict.fromkeys(one.split("/")[2] for one in told))
        send, receive = trio.open_memory_channel[str](_MAX_WAITING)
        token = trio.lowlevel.current_trio_token()

        def notice(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
            """In the library's thread."""
            if state_change.name != "Removed" and name != self._name:
                try:
                    token.run_sync_soon(partial(_put, send, name))
                except trio.RunFinishedError:
                    logger.debug("multicast DNS outlived the network")

        zeroconf = await trio.to_thread.run_sync(partial(Zeroconf, interfaces=hosts))
        try:
            info = self._info(told, hosts)
            await trio.to_thread.run_sync(zeroconf.register_service, info, abandon_on_cancel=True)
            browser = ServiceBrowser(zeroconf, self._type, handlers=[notice])
            async with trio.open_nursery() as nursery:
                for _ in range(_MAX_PARALLEL):
                    nursery.start_soon(self._ask, zeroconf, receive.clone(), interfaces)
                await self._moved.wait()
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(browser.cancel, abandon_on_cancel=True)
        finally:
            # Says goodbye to the LAN. A thread that hangs is left alone: it is a daemon's.
            with shielded(_CLOSE_S):
                await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)

    def _info(self, told: list[str], hosts: list[str]) -> Any:
        from zeroconf import ServiceInfo

        return ServiceInfo(
            self._type,
            self._name,
            port=int(told[0].split("/")[4]),
            properties=texts(told),
            addresses=[ipaddress.ip_address(one).packed for one in hosts],
            server=f"{self._name.partition('.')[0]}.local.",
        )

    async def _ask(
        self, zeroconf: Any, names: trio.MemoryReceiveChannel[str], interfaces: frozenset[Interface]
    ) -> None:
        """What those say that were heard of."""
        from zeroconf import ServiceInfo

        async for name in names:
            if not self._worth_asking(name):
                continue
            try:
                info = ServiceInfo(self._type, name)
                if not await trio.to_thread.run_sync(
                    info.request, zeroconf, _ASK_MS, abandon_on_cancel=True
                ):
                    continue
                found = announced(info.properties, interfaces)
            except Exception as error:
                logger.debug("multicast DNS, somebody's record: %s", describe(error))
                continue
            if found is not None and found[0] != self._me:
                logger.debug("heard of %d addresses on the LAN", len(found[1]))
                self._found(*found)

    def _worth_asking(self, name: str) -> bool:
        now = trio.current_time()
        if self._heard.get(name, -_AGAIN_S) + _AGAIN_S > now:
            return False
        self._heard[name] = now
        self._heard.move_to_end(name)
        if len(self._heard) > _MAX_KNOWN:
            self._heard.popitem(last=False)
        return True


def _put(channel: trio.MemorySendChannel[str], name: str) -> None:
    try:
        channel.send_nowait(name)
    except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
        logger.debug("more is announced on the LAN than one can ask about")
