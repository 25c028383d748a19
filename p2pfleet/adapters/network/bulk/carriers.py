"""Blobs of one node, put together: both carriers, both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2pfleet.adapters.network.bulk.answers import BlobAnswers
from p2pfleet.adapters.network.bulk.arriving import Arriving
from p2pfleet.adapters.network.bulk.certificate import OwnCertificate
from p2pfleet.adapters.network.bulk.client import BulkCarrier, Sign
from p2pfleet.adapters.network.bulk.control import BulkControl, BulkDesk
from p2pfleet.adapters.network.bulk.fetching import BlobFetcher
from p2pfleet.adapters.network.bulk.over_streams import BlobServer, Report, StreamCarrier
from p2pfleet.adapters.network.bulk.server import BulkServer
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import Tasks
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.wire.names import BLOB_PROTOCOL, BULK_PROTOCOL
from p2pfleet.ports import BlobGate, BlobReader, PartialBlob


class Blobs:
    """The ``Bulk`` port of a host, and what serves others. Takes its protocols on ``host``."""

    def __init__(
        self,
        config: NetworkConfig,
        network: NetworkId,
        host: Any,
        me: PeerId,
        sign: Sign,
        blobs: BlobReader,
        may_fetch: BlobGate,
        report: Report,
    ) -> None:
        self._config = config
        self._host = host
        arriving = Arriving()
        answers = self._answers = BlobAnswers(config, network, blobs, may_fetch, arriving)
        self._server = BulkServer(config, OwnCertificate(me, sign), answers, report)
        self._control = BulkControl(config, host, report)
        self._streams = StreamCarrier(config, host)
        self._carrier = BulkCarrier(config, network, host, self._control, sign, self._streams)
        self._fetcher = BlobFetcher(config, network, self._carrier, self._control, arriving, report)
        desk = BulkDesk(config, network, answers, self._server.ticket, report)
        host.set_stream_handler(BLOB_PROTOCOL, BlobServer(config, answers, report).serve)
        host.set_stream_handler(BULK_PROTOCOL, desk.serve)

    async def fetch(self, partial: PartialBlob, sources: Sequence[PeerId]) -> PeerId:
        """See the port ``Bulk``."""
        return await self._fetcher.fetch(partial, sources)

    @property
    def given_bytes(self) -> int:
        """Bytes of blobs that peers were given by this node, over both carriers."""
        return self._answers.given_bytes

    async def start(self, hosts: list[str], tasks: Tasks) -> None:
        """Listen on these hosts and serve in the background."""
        if self._config.bulk:
            await self._server.listen(hosts)
            tasks.start_soon(self._server.run)
        tasks.start_soon(self._carrier.tidy)

    def disconnected(self, peer: PeerId) -> None:
        """A connection to ``peer`` is gone; what hangs on it, and on the last one, ends."""
        self._streams.disconnected(peer)
        self._control.disconnected(peer)
        if not self._host.get_network().get_connections(library_id(peer)):
            self._server.disconnected(peer)
            self._carrier.disconnected(peer)
