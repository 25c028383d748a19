"""Routers in between: what a node does when it cannot be dialled, and for those that cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multiaddr import Multiaddr

from p2pfleet.adapters.network.addresses import is_relayed, on_loopback
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import Tasks
from p2pfleet.adapters.network.guard.admission import Admission
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.adapters.network.nat.circuit import HOP
from p2pfleet.adapters.network.nat.circuits import Circuits
from p2pfleet.adapters.network.nat.punching import Punching
from p2pfleet.adapters.network.nat.reachability import Reachability
from p2pfleet.adapters.network.nat.relay import Relay
from p2pfleet.adapters.network.sessions import Sessions
from p2pfleet.core.model.ids import PeerId


class Nat:
    """Reachability, relays and hole punching of one node.

    ``listening`` gives the addresses that it listens on, ``changed`` is called when others can
    reach it elsewhere than before, ``protect`` wraps raw connections as the network wants them.
    """

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        admission: Admission,
        sessions: Sessions,
        tasks: Tasks,
        listening: Callable[[], list[Any]],
        changed: Callable[[], None],
        protect: Callable[[Any], Any] = lambda raw: raw,
    ) -> None:
        self._config = config
        self._host = host
        self._sessions = sessions
        self._tasks = tasks
        self._listening = listening
        self.reachability = Reachability(
            config, host, self._direct_peers, self._ports, protect, changed
        )
        self.punching = Punching(host, admission, self._dialable, protect)
        if config.relay == "off":
            self.relay = self.circuits = None
            return
        self.relay = Relay(config, host, self._serves, self._listening)
        self.circuits = Circuits(
            config, host, admission, self._relays, self._needs, changed, self._arrived, protect
        )

    def start(self) -> None:
        """Begin to find out and to keep places, in the background."""
        if all(on_loopback(one) for one in self._listening()):
            return  # on one machine there is nothing in between
        self._tasks.start_soon(self.reachability.run)
        if self.circuits is not None:
            self._tasks.start_soon(self.circuits.keep_places)

    def addresses(self) -> list[Any]:
        """Where else this node can be dialled than where it listens."""
        ways = [] if self.circuits is None else self.circuits.addresses()
        return [Multiaddr(one) for one in (*self.reachability.mapped, *ways)]

    def moved(self) -> None:
        """The addresses of this machine are others now."""
        self.reachability.ask_again()

    def _ports(self) -> list[int]:
        direct = [str(one) for one in self._listening() if not is_relayed(one)]
        return list(dict.fromkeys(int(one.split("/")[4]) for one in direct))

    def _dialable(self) -> list[str]:
        return list(self.reachability.mapped)

    def _serves(self) -> bool:
        return self._config.relay == "on" or self.reachability.reachable is True

    def _needs(self) -> bool:
        return self.reachability.reachable is False

    def _direct_peers(self) -> list[PeerId]:
        return [one.peer for one in self._sessions.peers() if not is_relayed(one.address)]

    def _relays(self) -> list[PeerId]:
        """Connected peers that may carry."""
        store = self._host.get_peerstore()
        return [
            peer
            for peer in self._direct_peers()
            if store.supports_protocols(library_id(peer), [HOP])
        ]

    def _arrived(self, identity: Any) -> None:
        peer = peer_of(identity)
        if peer is not None:
            self._tasks.start_soon(self.punching.upgrade, peer)
