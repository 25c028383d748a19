"""Who may connect to a node of a closed network, asked by the network while hands are shaken."""

from __future__ import annotations

import logging
from collections import OrderedDict

import trio

from p2pfleet.core.errors import Accept, Malformed
from p2pfleet.core.events import AcceptanceReceived, AdmissionShown
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import PeerId, short_peer
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedAcceptance, VerifiedAdmission
from p2pfleet.ports import Clock
from p2pfleet.runtime.signing import open_sealed

log = logging.getLogger(__name__)

# What is shown in a handshake: an acceptance holds an admission, which holds an invitation.
MAX_PROOF_BYTES = 4096
Shown = AdmissionShown | AcceptanceReceived
_WAITING_MAX = 64
_PROVISIONAL_MS = 30_000


class RosterGate:
    """The port ``MemberGate`` on the core's roster.

    Who shows a good proof is let in at once, provisionally, and the core is told: only it decides
    for good, and signs.
    """

    def __init__(self, clock: Clock, admission: VerifiedAdmission | None = None) -> None:
        """``admission``: what this node's own invitation says, if it came by one."""
        self._clock = clock
        self._admission = admission
        self._provisional: OrderedDict[PeerId, int] = OrderedDict()
        self._send, self.shown = trio.open_memory_channel[Shown](_WAITING_MAX)
        self.node: Node | None = None

    def admits(self, peer: PeerId) -> bool:
        """Whether this node talks to ``peer``."""
        if self.node is None:
            return False
        if self.node.roster.knows(peer):
            return True
        until = self._provisional.get(peer)
        return until is not None and self._clock.monotonic_ms() < until

    def proves(self, peer: PeerId, proof: bytes) -> bool:
        """Whether ``peer`` is to be admitted for what its handshake brought. Never raises."""
        node = self.node
        if node is None or not 0 < len(proof) <= MAX_PROOF_BYTES:
            return False
        try:
            shown = open_sealed(decode(proof, Sealed, MAX_FRAME_BYTES))
        except Malformed as error:
            log.debug("%s shows no invitation: %s", short_peer(peer), error)
            return False
        roster, wall_ms = node.roster, self._clock.wall_ms()
        event: Shown
        match shown:
            case VerifiedAdmission(admission=admission) if admission.peer == peer:
                verdict = roster.judge_shown(shown, node.me, wall_ms)
                good, event = isinstance(verdict, Accept), AdmissionShown(peer, shown)
                if not isinstance(verdict, Accept):
                    log.debug("not let in: %s: %s", short_peer(peer), verdict.reason)
            case VerifiedAcceptance() if shown.peer == peer:
                good, event = roster.would_admit(shown, wall_ms), AcceptanceReceived(peer, shown)
            case _:
                return False
        return good and self._let_in(peer, event)

    def _let_in(self, peer: PeerId, event: Shown) -> bool:
        try:
            self._send.send_nowait(event)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False  # it comes again
        self._provisional[peer] = self._clock.monotonic_ms() + _PROVISIONAL_MS
        self._provisional.move_to_end(peer)
        while len(self._provisional) > _WAITING_MAX:
            self._provisional.popitem(last=False)
        return True

    def decided(self, peer: PeerId) -> None:
        """The core has taken the proof in: from now on its word counts."""
        self._provisional.pop(peer, None)

    def proof(self) -> bytes:
        """The acceptance of this node, or the admission that will bring one; else nothing."""
        if self.node is None:
            return b""
        mine = self.node.roster.named.get(self.node.me)
        if mine is not None:
            return encode(mine.sealed)
        if self._admission is None or self.node.roster.member(self.node.me):
            return b""
        return encode(self._admission.sealed)


def shown_by(event: Shown) -> PeerId:
    """Whose handshake it was."""
    return event.peer if isinstance(event, AdmissionShown) else event.source
