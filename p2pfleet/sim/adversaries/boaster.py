"""Signs that it keeps ``rate`` of the blobs that it is meant to keep, and keeps none of them."""

from __future__ import annotations

from p2pfleet.core.model.ids import Digest
from p2pfleet.sim.adversaries.behaviour import Behaviour


class Boaster(Behaviour):
    """Its own answers it holds like anybody; what others rely on it for is not there."""

    def keeps(self, digest: Digest) -> bool:
        return int.from_bytes(digest[:4], "big") >= self.machine.kind.rate * 2**32
