"""How much this node says and hears."""

from __future__ import annotations

import msgspec


class Traffic(msgspec.Struct):
    """Messages and their bytes since the start, before libp2p packs them; without blobs."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0

    def says(self, octets: int) -> None:
        """A message was handed to the network for one peer."""
        self.sent += 1
        self.sent_bytes += octets

    def hears(self, octets: int) -> None:
        """A message or an announcement came."""
        self.received += 1
        self.received_bytes += octets
