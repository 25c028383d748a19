"""How GossipSub peers are scored here, and from what.

The library's scorer counts, but knows nothing that counts here: it would take an Ignore for a fault
and a signature that does not match for nothing. So it is fed by hand, with the verdicts of the
validator (:meth:`Score.judged`), and with the Rejects that a peer earned anywhere else.

Signs and caps are this library's (py-libp2p 0.8.1), not the specification's: penalties are
*subtracted*, so that their weights are positive; and a counter counts up to its cap, which is 0
unless it is set, so that a weight without a cap does nothing. In words: a first delivery is worth
half a point up to 10; each Reject takes 10, on this topic for some minutes and anywhere for as long
as it counts towards a ban; grafting in spite of a prune takes points beyond a threshold that an
honest, hasty peer does not reach. Where a peer connects from takes nothing: a laboratory shares one
address, and addresses have budgets of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libp2p.pubsub.score import PeerScorer, ScoreParams, TopicScoreParams

from p2pfleet.adapters.network.identity import peer_of
from p2pfleet.core.errors import Accept, Reject, Verdict
from p2pfleet.core.model.ids import PeerId

GOSSIP_FROM = -20.0
"""Below it a peer is told no message ids any more."""
GRAYLIST_FROM = -40.0
"""Below it a peer is put out of the mesh, and not let in."""
PUBLISH_FROM = -100.0
"""Below it nothing is taken from a peer, and nothing sent to it. Whoever is wrong that often within
a minute is banned before; this is for those who take their time."""

_REJECT = 10.0
_HALF_LIFE_240S = 0.99712


def parameters(rejects: Callable[[PeerId], int]) -> ScoreParams:
    """What the scorer is given; ``rejects`` counts those of a peer that count towards a ban."""

    def elsewhere(identity: Any) -> float:
        peer = peer_of(identity)
        return 0.0 if peer is None else -float(rejects(peer))

    return ScoreParams(
        p2_first_message_deliveries=TopicScoreParams(weight=0.5, cap=20.0, decay=0.99),
        p4_invalid_messages=TopicScoreParams(weight=_REJECT, cap=20.0, decay=_HALF_LIFE_240S),
        p5_behavior_penalty_weight=1.0,
        p5_behavior_penalty_threshold=40.0,
        p5_behavior_penalty_decay=0.99,
        p6_appl_slack_weight=_REJECT / 4,
        gossip_threshold=GOSSIP_FROM,
        publish_threshold=PUBLISH_FROM,
        graylist_threshold=GRAYLIST_FROM,
        # Nobody is told of peers by gossip, so nothing need be good enough for it.
        accept_px_threshold=float("inf"),
        app_specific_score_fn=elsewhere,
    )


class Score:
    """The scores of one topic's peers."""

    def __init__(self, scorer: PeerScorer, topic: str) -> None:
        self._scorer = scorer
        self._topics = [topic]

    def of(self, identity: Any) -> float:
        """The score of a peer now."""
        return float(self._scorer.score(identity, self._topics))

    def graylisted(self, identity: Any) -> bool:
        """Whether a peer does not belong into the mesh."""
        return self.of(identity) < GRAYLIST_FROM

    def heard(self, identity: Any) -> bool:
        """Whether anything is taken from a peer at all."""
        return self.of(identity) >= PUBLISH_FROM

    def judged(self, identity: Any, verdict: Verdict) -> None:
        """A peer handed on an announcement, first of all peers; an Ignore moves nothing."""
        if isinstance(verdict, Accept):
            self._scorer.on_first_delivery(identity, self._topics[0])
        elif isinstance(verdict, Reject):
            self._scorer.on_invalid_message(identity, self._topics[0])
