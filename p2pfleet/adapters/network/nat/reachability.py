"""Whether others can dial this node: AutoNAT v1, both sides.

A node asks some of its peers to dial it at the address from which they see it come. An answer
counts only together with that address, and an address that this node does not have itself (its
router's) is told to others only when two of them agree. The library's own service answers for the
connection that stands already, whether the address can be dialled or not.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import trio
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2pfleet.adapters.network.addresses import endpoint, is_relayed, usable
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe, reset_quietly, shielded
from p2pfleet.adapters.network.guard.limits import Buckets, TokenBucket, address_group, is_loopback
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.nat.circuit import (
    IDENTIFY,
    REACH,
    Refused,
    finish,
    read_message,
    remote_endpoint,
    write_message,
)
from p2pfleet.adapters.network.nat.whereabouts import own_interfaces
from p2pfleet.adapters.network.streams import StreamFailed, TooLong, open_stream
from p2pfleet.core.model.ids import PeerId

logger = logging.getLogger(__name__)

_MAX_CANDIDATES = 4
_MAX_IDENTIFY_BYTES = 32 * 1024
_CONNECT_S = 4.0
_SERVE_S = 12.0
_ASK_S = 20.0
_SERVES_PER_S = 1.0
_SERVES_PER_PLACE_S = 0.05
_ASKED = 3
_FIRST_S = 2.0
_UNSURE_S = 15.0
_SURE_S = 300.0
_MAX_ANSWERS = 16


async def observed_by(host: Any, peer: PeerId) -> tuple[str, int] | None:
    """From which address ``peer`` says to see this node come, over the newest connection.

    Raises :class:`StreamFailed`, :class:`TooLong` and :class:`Refused`.
    """
    stream = await open_stream(host, library_id(peer), IDENTIFY)
    try:
        told = await read_message(stream, Identify, most=_MAX_IDENTIFY_BYTES)
        text = str(Multiaddr(told.observed_addr)) if told.observed_addr else ""
    except ValueError as error:
        raise Refused("a malformed address") from error
    finally:
        await reset_quietly(stream)
    parts = text.split("/")
    if usable(text) is None or is_relayed(text) or parts[1] not in ("ip4", "ip6"):
        return None
    return parts[2], int(parts[4])


class Reachability:
    """What others found out about this node, and finding it out for others.

    ``reachable`` is ``None`` for as long as it is not known.
    """

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        peers: Callable[[], list[PeerId]],
        ports: Callable[[], list[int]],
        protect: Callable[[Any], Any],
        changed: Callable[[], None],
    ) -> None:
        self._config = config
        self._host = host
        self._peers = peers
        self._ports = ports
        self._protect = protect
        self._changed = changed
        self._answers: OrderedDict[PeerId, tuple[str, str | None]] = OrderedDict()
        self._again = trio.Event()
        self._serves = TokenBucket(_SERVES_PER_S, 16.0)
        self._serves_place = Buckets(_SERVES_PER_PLACE_S, 4.0)
        self.reachable: bool | None = None
        self.mapped: tuple[str, ...] = ()
        """Addresses of a router that lead here, which at least two peers have dialled."""
        host.set_stream_handler(REACH, self.serve)

    def ask_again(self) -> None:
        """The addresses are others now: nothing is known any more."""
        self._answers.clear()
        self._again.set()

    # ---- asking ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Find out, again and again, for ever."""
        while True:
            await trio.sleep(_FIRST_S)
            self._again = trio.Event()
            peers = self._peers()
            fresh = [one for one in peers if one not in self._answers] or peers
            async with trio.open_nursery() as nursery:
                for peer in random.sample(fresh, min(_ASKED, len(fresh))):
                    nursery.start_soon(self._ask, peer)
            self._conclude()
            sure = self.reachable is not None and len(self._answers) >= min(_ASKED, len(peers))
            with trio.move_on_after(
                _SURE_S if sure and peers else _UNSURE_S if peers else _FIRST_S
            ):
                await self._again.wait()

    async def _ask(self, peer: PeerId) -> None:
        stream = None
        try:
            seen = await observed_by(self._host, peer)
            if seen is None or is_loopback(address_group(seen[0])):
                return
            candidates = [endpoint(seen[0], port) for port in self._ports()]
            ask = Message(type=Message.DIAL)
            ask.dial.peer.id = self._host.get_id().to_bytes()
            ask.dial.peer.addrs.extend(Multiaddr(one).to_bytes() for one in candidates)
            stream = await open_stream(self._host, library_id(peer), REACH)
            await write_message(stream, ask)
            answer = (await read_message(stream, Message, _ASK_S)).dialResponse
            if answer.status not in (Message.OK, Message.E_DIAL_ERROR):
                return
            dialled = str(Multiaddr(answer.addr)) if answer.status == Message.OK else None
            if dialled is not None and dialled not in candidates:
                return
        except (StreamFailed, TooLong, Refused, ValueError) as error:
            logger.debug("asking whether this node can be dialled: %s", describe(error))
            return
        finally:
            if stream is not None:
                await reset_quietly(stream)
        self._answers.pop(peer, None)
        self._answers[peer] = seen[0], dialled
        if len(self._answers) > _MAX_ANSWERS:
            self._answers.popitem(last=False)

    def _conclude(self) -> None:
        own = {str(one.ip) for one in own_interfaces()}
        answers = list(self._answers.values())
        # Who sees this node's own address has no router in between, and so is no witness to what
        # those see who have.
        outside = [one for one in answers if one[0] not in own] or answers
        mapped: dict[str, int] = {}
        for seen, dialled in outside:
            if dialled is not None and seen not in own:
                mapped[dialled] = mapped.get(dialled, 0) + 1
        enough = min(2, len(outside))
        before = self.reachable, self.mapped
        self.mapped = tuple(sorted(one for one, count in mapped.items() if count >= enough))[:2]
        if outside:
            yes = sum(dialled is not None for _, dialled in outside)
            self.reachable = 2 * yes > len(outside)
        if (self.reachable, self.mapped) != before:
            logger.info("others can dial this node: %s", self.reachable)
            self._changed()

    # ---- answering ---------------------------------------------------------------------------

    async def serve(self, stream: Any) -> None:
        """The stream handler: dial who asks, where it comes from and nowhere else."""
        try:
            ask = await read_message(stream, Message)
            answer = Message(type=Message.DIAL_RESPONSE)
            answer.dialResponse.status = Message.E_DIAL_REFUSED
            remote = remote_endpoint(stream.swarm_conn)
            if ask.type != Message.DIAL or ID(ask.dial.peer.id) != stream.muxed_conn.peer_id:
                answer.dialResponse.status = Message.E_BAD_REQUEST
            elif remote is not None and (found := self._candidates(ask, remote[0])):
                place = self._serves_place[address_group(remote[0]).encode()]
                if place.take() and self._serves.take():
                    await self._try(stream.muxed_conn.peer_id, found, answer.dialResponse)
            await write_message(stream, answer)
            await finish(stream)
        except (StreamFailed, TooLong, Refused, ValueError) as error:
            logger.debug("whether somebody can be dialled: %s", describe(error))
        finally:
            await reset_quietly(stream)

    def _candidates(self, ask: Any, host: str) -> list[str]:
        found = []
        for raw in ask.dial.peer.addrs[: 4 * _MAX_CANDIDATES]:
            text = usable(str(Multiaddr(raw)))
            if text is not None and not is_relayed(text) and text.split("/")[2] == host:
                found.append(text)
        return list(dict.fromkeys(found))[:_MAX_CANDIDATES]

    async def _try(self, identity: Any, addresses: list[str], answer: Any) -> None:
        answer.status = Message.E_DIAL_ERROR
        with trio.move_on_after(_SERVE_S):
            for text in addresses:
                if await self._reaches(identity, text):
                    answer.status = Message.OK
                    answer.addr = Multiaddr(text).to_bytes()
                    return

    async def _reaches(self, identity: Any, text: str) -> bool:
        """Whether that very peer answers there."""
        _, _, host, _, port = text.split("/")
        socket = None
        try:
            with trio.fail_after(_CONNECT_S):
                socket = await trio.open_tcp_stream(host, int(port))
                raw = self._protect(RawConnection(TrioTCPStream(socket), True))
                upgrader = self._host.get_network().upgrader
                await upgrader.upgrade_security(raw, True, identity)
            return True
        except Exception as error:
            logger.debug("%s cannot be dialled: %s", text, describe(error))
            return False
        finally:
            if socket is not None:
                with shielded(1.0):
                    await socket.aclose()
