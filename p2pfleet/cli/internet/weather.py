"""What one link is like: how long packets take, how many vanish, how many fit through."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MTU_FAIR = 32_000
MTU_FOUL = 1_500

Delay = Annotated[float, Meta(ge=0, le=10_000)]
Loss = Annotated[float, Meta(ge=0, le=1)]
Bandwidth = Annotated[float, Meta(ge=0, le=100_000)]


class Weather(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The link between a host and the rest, for packets of either direction.

    A packet takes ``latency_ms`` and up to ``jitter_ms`` more, evenly spread, but never overtakes
    another; it vanishes with probability ``loss``; ``bandwidth_mbit`` (10^6 bit/s, 0: any) of them
    fit through a second. The way from one host to another has two links: with ``latency_ms`` 50 on
    one of them and nothing on the other, a ping takes 100 ms.
    """

    latency_ms: Delay = 0.0
    jitter_ms: Delay = 0.0
    loss: Loss = 0.0
    bandwidth_mbit: Bandwidth = 0.0

    @property
    def mtu(self) -> int:
        """How large (bytes) packets may be.

        Large ones cost less, but where packets are lost or squeeze through a narrow link, they
        must be those of a real network: TCP counts packets.
        """
        return MTU_FOUL if self.loss or self.bandwidth_mbit else MTU_FAIR


CLEAR = Weather()
