"""Fetching blobs: the ``Bulk`` port."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import trio

from p2pfleet.adapters.network.bulk.arriving import Arriving
from p2pfleet.adapters.network.bulk.control import BulkControl
from p2pfleet.adapters.network.bulk.doubted import Doubted
from p2pfleet.adapters.network.bulk.over_streams import Carrier, Report
from p2pfleet.adapters.network.bulk.pieces import PieceFetch
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import refused
from p2pfleet.adapters.network.guard.limits import MAX_TRACKED_PEERS
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.streams import StreamFailed, TooLong
from p2pfleet.core.errors import Malformed, Reject
from p2pfleet.core.model.ids import Cid, NetworkId, PeerId, short_peer
from p2pfleet.core.wire.messages import BlobRequest
from p2pfleet.core.wire.names import PIECE_BYTES
from p2pfleet.ports import ArrivingPieces, BlobNotFound, PartialBlob

_DISTRUST_S = 600.0


class BlobFetcher:
    """The ``Bulk`` port: small blobs from one source, large ones in pieces from several."""

    def __init__(
        self,
        config: NetworkConfig,
        network: NetworkId,
        carrier: Carrier,
        control: BulkControl,
        arriving: Arriving,
        report: Report,
    ) -> None:
        self._config = config
        self._network = network
        self._carrier = carrier
        self._control = control
        self._arriving = arriving
        self._report = report
        self._slots = trio.CapacityLimiter(config.fetches)
        self._distrusted: OrderedDict[tuple[Cid, PeerId], float] = OrderedDict()

    async def fetch(self, partial: PartialBlob, sources: Sequence[PeerId]) -> PeerId:
        """Fill ``partial``; returns who completed it. Raises :class:`BlobNotFound`."""
        ordered = list(dict.fromkeys(sources))
        async with self._slots:
            if ordered and partial.ref.length >= self._config.pieces_from_bytes:
                pieces = await trio.to_thread.run_sync(partial.pieces)
                if pieces is not None:
                    return await self._fetch_in_pieces(partial, pieces, ordered)
            return await self._fetch_whole(partial, ordered)

    # ---- in pieces ---------------------------------------------------------------------------

    async def _fetch_in_pieces(
        self, partial: PartialBlob, pieces: ArrivingPieces, sources: Sequence[PeerId]
    ) -> PeerId:
        cid = partial.ref.cid
        before = any(await trio.to_thread.run_sync(pieces.held))
        fetch = self._piece_fetch(partial, pieces, sources, wholes_only=False)
        shared = self._arriving.begin(partial, pieces)
        try:
            last = await fetch.run()
            if await trio.to_thread.run_sync(pieces.right):
                await trio.to_thread.run_sync(partial.finish)
                return last
        finally:
            if shared:
                self._arriving.end(cid)
        # Only the whole has a hash: who was wrong shows once the right bytes are here.
        doubted = await trio.to_thread.run_sync(Doubted, pieces, fetch.senders)
        alone = None if before else doubted.alone()
        if alone is not None:
            self._wrong(alone, doubted)
        self._distrust(cid, doubted.unchecked())
        for source in doubted.in_order_of_trust(sources):
            await trio.to_thread.run_sync(partial.restart)
            again = await trio.to_thread.run_sync(partial.pieces)
            assert again is not None
            fetch = self._piece_fetch(partial, again, [source], wholes_only=True)
            try:
                await fetch.run()
            except BlobNotFound as error:
                doubted.answers.append(str(error))
                continue
            if await trio.to_thread.run_sync(again.right):
                wrong, good = await trio.to_thread.run_sync(doubted.compared, again)
                await trio.to_thread.run_sync(partial.finish)
                for peer in wrong:
                    self._wrong(peer, doubted)
                for peer in good:
                    self._distrusted.pop((cid, peer), None)
                return source
            self._wrong(source, doubted)
        await trio.to_thread.run_sync(partial.restart)
        raise BlobNotFound("; ".join(doubted.answers) or "all that came was wrong")

    def _piece_fetch(
        self,
        partial: PartialBlob,
        pieces: ArrivingPieces,
        sources: Sequence[PeerId],
        wholes_only: bool,
    ) -> PieceFetch:
        now = trio.current_time()
        return PieceFetch(
            self._config,
            self._network,
            partial,
            pieces,
            sources,
            self._carrier,
            self._control,
            self._arriving,
            self._report,
            {
                peer
                for (cid, peer), until in self._distrusted.items()
                if cid == partial.ref.cid and until > now
            },
            wholes_only,
        )

    def _distrust(self, cid: Cid, peers: Sequence[PeerId]) -> None:
        """These handed on what they had not checked, and the whole was wrong: take no pieces of it
        from them for a while."""
        for peer in peers:
            self._distrusted[cid, peer] = trio.current_time() + _DISTRUST_S
            self._distrusted.move_to_end((cid, peer))
        while len(self._distrusted) > MAX_TRACKED_PEERS:
            self._distrusted.popitem(last=False)

    def _wrong(self, source: PeerId, doubted: Doubted | None = None) -> None:
        """``source`` sent wrong bytes; it is blamed once for each blob."""
        if doubted is not None:
            if source in doubted.blamed:
                return
            doubted.blamed.add(source)
            doubted.answers.append(f"{short_peer(source)}: sent wrong bytes")
        refused(library_id(source), "a blob with other bytes than its name says")
        self._report(source, Reject("wrong bytes of a blob"))

    # ---- from the front ----------------------------------------------------------------------

    async def _fetch_whole(self, partial: PartialBlob, sources: Sequence[PeerId]) -> PeerId:
        """Fill ``partial`` from the first source that can."""
        answers: list[str] = []
        alone: PeerId | None = None
        for source in sources:
            # Bytes that were there before may be the wrong ones: whoever completes them is
            # to blame only for what came from it alone.
            for _ in range(2):
                if partial.present == 0:
                    alone = source
                mixed = alone != source
                answer = await self._fetch_from(source, partial)
                if answer is not None:
                    answers.append(f"{short_peer(source)}: {answer}")
                    break
                if await trio.to_thread.run_sync(partial.finish):
                    return source
                if partial.present:
                    await trio.to_thread.run_sync(partial.restart)
                if not mixed:
                    self._wrong(source)
                    answers.append(f"{short_peer(source)}: sent wrong bytes")
                    break
        raise BlobNotFound("; ".join(answers) or "nobody to ask")

    async def _fetch_from(self, source: PeerId, partial: PartialBlob) -> str | None:
        """Let ``source`` send what is missing; ``None``, or why it did not."""
        ref = partial.ref
        left = ref.length - partial.present
        if left <= 0:
            return None
        request = BlobRequest(
            network=self._network,
            cid=ref.cid,
            offset=ref.offset + partial.present,
            length=left,
        )

        def keep(block: memoryview) -> None:
            partial.write(bytes(block))

        try:
            if not await self._carrier.receive(source, request, PIECE_BYTES, keep):
                return "has it not"
        except StreamFailed as error:
            return f"{error}, {partial.present} of {ref.length} bytes are here"
        except (Malformed, TooLong) as error:
            self._report(source, Reject(f"blob header: {error}"))
            return f"sent a malformed header: {error}"
        return None
