"""What this node is willing to run: its sandbox, its owner's limits, its network's requirement."""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Send
from p2pfleet.core.errors import Accept, Verdict
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.model.job import Limits
from p2pfleet.core.rules.admission import beyond
from p2pfleet.core.rules.consent import judge_requirement, refused
from p2pfleet.core.wire.messages import Deliver, Manifest
from p2pfleet.core.wire.verified import VerifiedRequirement

NO_LIMITS = Limits(memory_bytes=2**40, cpu_ms=24 * 3600 * 1000, output_bytes=2**32)


class Consent(msgspec.Struct):
    """Fixed for a run of the node, but for the requirement, which may come at any time.

    ``most`` are the owner's limits for one unit: a job that asks for more is left to others,
    because a unit that failed for this owner's sake would look like the job's fault. ``trusted``
    are the publishers whom the owner named; ``owner`` is the network's, if it has one.
    """

    capability: Capability
    most: Limits = NO_LIMITS
    trusted: tuple[PeerId, ...] = ()
    owner: PeerId | None = None
    requirement: VerifiedRequirement | None = None

    def take(self, requirement: VerifiedRequirement, network: NetworkId) -> Verdict:
        """Let a requirement apply from now on, unless it is refused."""
        known = self.requirement
        verdict = judge_requirement(
            requirement.requirement,
            network,
            self.owner,
            None if known is None else known.requirement.sequence,
        )
        if isinstance(verdict, Accept):
            self.requirement = requirement
        return verdict

    def tell(self, peers: tuple[PeerId, ...]) -> list[Send]:
        """Pass on to ``peers`` what the network's owner asks for, if it is known."""
        if self.requirement is None or not peers:
            return []
        return [Send(peers, Deliver(self.requirement.sealed))]

    def strangers(self) -> str:
        """Why no strangers' work is run; empty if it is."""
        return self._refused(trusted=False)

    def to(self, manifest: Manifest) -> str:
        """Why the job is not run here; empty if it is."""
        trusted = manifest.publisher in self.trusted
        return self._refused(trusted) or beyond(manifest.limits, self.most)

    def _refused(self, trusted: bool) -> str:
        minimum = None if self.requirement is None else self.requirement.requirement.onnxruntime
        return refused(self.capability, minimum, trusted)
