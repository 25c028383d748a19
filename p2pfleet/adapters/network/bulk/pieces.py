"""One large blob on its way here, in pieces, from several sources at once.

A worker asks one source at a time which pieces it should take from it (the source spreads them,
see ``rations``), and fetches them. A piece that comes too slowly is asked of another source as
well, and the first copy counts. Sources that are still fetching themselves serve as well as those
that have everything.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

import trio

from p2pfleet.adapters.network.bulk.answers import packed, unpacked
from p2pfleet.adapters.network.bulk.arriving import Arriving
from p2pfleet.adapters.network.bulk.control import BulkControl
from p2pfleet.adapters.network.bulk.over_streams import Carrier, Report
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.streams import StreamFailed, TooLong
from p2pfleet.core.errors import Malformed, P2pfleetError, Reject
from p2pfleet.core.model.ids import NetworkId, PeerId, short_peer
from p2pfleet.core.wire.messages import BlobRequest, Pieces, PiecesRequest
from p2pfleet.core.wire.names import PIECE_BYTES, PIECES_A_GRANT
from p2pfleet.ports import ArrivingPieces, BlobNotFound, PartialBlob

logger = logging.getLogger(__name__)

_GRANT_S: Final = 0.5
_ABSENT_AGAIN_S: Final = 1.0
_LATE_S: Final = 1.0
_LATE_TIMES: Final = 3.0
_PAUSE_MAX_S: Final = 1.0
_PAUSE_MIN_S: Final = 0.05
_FAILURES: Final = 3
_DULL_ANSWERS: Final = 2
_TRUST_STEP_MS: Final = 1_000
_TRUST_MAX_MS: Final = 5_000


class _Flight:
    """Pieces that a source is sending now, in this order."""

    def __init__(self, source: PeerId, pieces: list[int]) -> None:
        self.source = source
        self.pieces = pieces
        self.moved_at = trio.current_time()
        self.scope = trio.CancelScope()


class PieceFetch:
    """Fills ``pieces`` of ``partial`` from ``sources`` (the first one most likely has them all).

    ``wholes_only``: take nothing from sources that have not checked the whole themselves. From
    those in ``distrusted`` nothing else is taken in any case. After :meth:`run`, ``senders`` says
    who sent which piece, and whether it claimed to have checked the whole.
    """

    def __init__(
        self,
        config: NetworkConfig,
        network: NetworkId,
        partial: PartialBlob,
        pieces: ArrivingPieces,
        sources: Sequence[PeerId],
        carrier: Carrier,
        control: BulkControl,
        arriving: Arriving,
        report: Report,
        distrusted: Collection[PeerId] = (),
        wholes_only: bool = False,
    ) -> None:
        self._config = config
        self._network = network
        self._ref = partial.ref
        self._pieces = pieces
        self._carrier = carrier
        self._control = control
        self._arriving = arriving
        self._report = report
        self._distrusted = distrusted
        self._wholes_only = wholes_only
        others = list(sources[1:])
        random.shuffle(others)
        self._queue: deque[PeerId] = deque([*sources[:1], *others])
        self._later: deque[tuple[float, PeerId]] = deque()
        self._busy = 0
        self._held = bytearray()
        self._missing = 0
        self._flights: list[_Flight] = []
        self._progress_at = trio.current_time()
        self._changed = trio.Event()
        self._answers: dict[PeerId, str] = {}
        self._in_vain: dict[PeerId, int] = {}
        self._last: PeerId = sources[0]
        self._error: P2pfleetError | None = None
        self.senders: dict[int, tuple[PeerId, bool]] = {}

    async def run(self) -> PeerId:
        """Fetch what is missing; who sent the last of it. Raises :class:`BlobNotFound`, and
        :class:`P2pfleetError` when it cannot be kept."""
        self._held = await trio.to_thread.run_sync(self._pieces.held)
        self._missing = self._held.count(0)
        if self._missing:
            if len(self._queue) == 1:
                # Two at once also from a single source: while one hashes and writes, one receives.
                self._queue *= 2
            workers = min(len(self._queue), self._config.piece_sources)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                async with trio.open_nursery() as crew:
                    for _ in range(workers):
                        crew.start_soon(self._work)
                nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error
        if self._missing:
            said = [f"{short_peer(peer)}: {text}" for peer, text in self._answers.items()]
            raise BlobNotFound("; ".join(said) or "nobody has all of it")
        return self._last

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End it when all is here, when it cannot be kept, or when nothing comes any more."""
        while self._missing and self._error is None:
            await self._change(1.0)
            quiet_s = trio.current_time() - self._progress_at
            if not self._flights and quiet_s > self._config.piece_patience_s:
                break
        scope.cancel()

    # ---- workers -----------------------------------------------------------------------------

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _change(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._changed.wait()

    async def _work(self) -> None:
        while True:
            now = trio.current_time()
            while self._later and self._later[0][0] <= now:
                self._queue.append(self._later.popleft()[1])
            if self._queue:
                self._busy += 1
                try:
                    await self._take_from(self._queue.popleft())
                finally:
                    self._busy -= 1
                    self._tell()
            elif self._later and self._busy:
                await self._change(self._later[0][0] - now)
            else:
                return

    def _left(self, source: PeerId, why: str) -> None:
        self._answers[source] = why

    def _absent(self, source: PeerId) -> None:
        """It has nothing of it now; perhaps it is about to begin."""
        self._left(source, "has it not")
        self._later.append((trio.current_time() + _ABSENT_AGAIN_S, source))

    async def _take_from(self, source: PeerId) -> None:
        """Take from one source what it gives, until it is of no more use."""
        failures = dull = 0
        piece_s = _GRANT_S
        waited = False
        while self._missing:
            wanted = self._wanted(source, piece_s)
            if not any(wanted):
                await self._change(_PAUSE_MAX_S / 4)
                continue
            try:
                answer = await self._ask(source, wanted, piece_s)
            except Malformed as error:
                return self._left(source, str(error))
            if not (answer.complete or answer.held) or (
                not answer.complete and (self._wholes_only or source in self._distrusted)
            ):
                return self._absent(source)
            take = [p for p in answer.take if p < len(wanted) and wanted[p] and not self._held[p]]
            # Another worker may have begun with some of them while the answer was on its way.
            take = [p for p in take if wanted[p] == 2 or not self._flying(p)]
            if not take:
                if not self._useful(answer, wanted):
                    dull += 1
                    if dull >= _DULL_ANSWERS and self._queue:
                        self._queue.append(source)
                        return None
                waited |= bool(answer.wait_ms)
                pause = min(max(answer.wait_ms / 1000, _PAUSE_MIN_S), _PAUSE_MAX_S)
                await self._change(pause)
                continue
            if waited:
                # What it wanted us to find elsewhere was not to be found: next time, wait less.
                more = self._in_vain.get(source, 0) + _TRUST_STEP_MS
                self._in_vain[source] = min(more, _TRUST_MAX_MS)
            dull, waited = 0, False
            began = trio.current_time()
            try:
                if not await self._transfer(source, take, answer.complete):
                    return self._absent(source)
            except StreamFailed as error:
                failures += 1
                self._left(source, str(error))
                if failures >= _FAILURES:
                    return None
                await trio.sleep(_PAUSE_MIN_S)
                continue
            except (Malformed, TooLong) as error:
                self._report(source, Reject(f"blob header: {error}"))
                return self._left(source, f"sent a malformed header: {error}")
            except P2pfleetError as error:
                self._error = error
                return self._tell()
            failures = 0
            piece_s = (trio.current_time() - began) / len(take)
        return None

    def _wanted(self, source: PeerId, piece_s: float) -> bytearray:
        """What to ask ``source`` for, one byte a piece: 1 what nobody sends yet; without such, 2
        what somebody else sends too slowly."""
        wanted = bytearray(1 - flag for flag in self._held)
        for flight in self._flights:
            for piece in flight.pieces:
                wanted[piece] = 0
        if not any(wanted):
            late = trio.current_time() - max(_LATE_S, _LATE_TIMES * piece_s)
            for flight in self._flights:
                if flight.source != source and flight.moved_at < late:
                    for piece in flight.pieces:
                        if not self._held[piece] and self._flying(piece) == 1:
                            wanted[piece] = 2
        return wanted

    def _flying(self, piece: int) -> int:
        return sum(piece in flight.pieces for flight in self._flights)

    def _useful(self, answer: Pieces, wanted: bytearray) -> bool:
        if answer.complete:
            return True
        held = unpacked(answer.held, len(wanted))
        return any(here and want for here, want in zip(held, wanted, strict=True))

    async def _ask(self, source: PeerId, wanted: bytearray, piece_s: float) -> Pieces:
        """What ``source`` says about pieces. Raises :class:`Malformed`."""
        most = max(1, min(int(_GRANT_S / max(piece_s, 0.001)), PIECES_A_GRANT))
        begun = [flight.moved_at for flight in self._flights]
        waited_s = trio.current_time() - max([self._progress_at, *begun])
        waited_ms = min(round(waited_s * 1000), 3_000_000) + self._in_vain.get(source, 0)
        question = PiecesRequest(
            network=self._network,
            cid=self._ref.cid,
            offset=self._ref.offset,
            length=self._ref.length,
            held=packed(bytearray(not want for want in wanted)),
            most=most,
            waited_ms=waited_ms,
        )
        try:
            return await self._control.pieces(source, question, self._config.blob_answer_s)
        except StreamFailed as error:
            # It may not speak this protocol; then it has all or nothing.
            logger.debug("%s about pieces: %s", short_peer(source), error)
            own = [piece for piece, want in enumerate(wanted) if want]
            return Pieces(complete=True, held=b"", take=tuple(own[:most]), wait_ms=0)

    # ---- transfers ---------------------------------------------------------------------------

    def _length(self, piece: int) -> int:
        return min(PIECE_BYTES, self._ref.length - piece * PIECE_BYTES)

    async def _transfer(self, source: PeerId, take: list[int], complete: bool) -> bool:
        """Fetch these pieces; whether ``source`` has them. Raises what a carrier raises."""
        flight = _Flight(source, take)
        self._flights.append(flight)
        try:
            # Ended from outside when others were quicker.
            with flight.scope:
                for run in _runs(take):
                    flight.moved_at = trio.current_time()
                    if not await self._receive(flight, run, complete):
                        return False
            return True
        finally:
            self._flights.remove(flight)
            self._tell()

    async def _receive(self, flight: _Flight, run: list[int], complete: bool) -> bool:
        coming = iter(run)

        def keep(block: memoryview) -> None:
            piece = next(coming)
            if len(block) == self._length(piece):
                ours = self._pieces.write(piece, block)
                trio.from_thread.run_sync(self._arrived, piece, flight, complete, ours)

        request = BlobRequest(
            network=self._network,
            cid=self._ref.cid,
            offset=self._ref.offset + run[0] * PIECE_BYTES,
            length=sum(self._length(piece) for piece in run),
        )
        return await self._carrier.receive(flight.source, request, PIECE_BYTES, keep)

    def _arrived(self, piece: int, flight: _Flight, complete: bool, ours: bool) -> None:
        flight.moved_at = trio.current_time()
        if not ours or self._held[piece]:
            return
        self._held[piece] = 1
        self._missing -= 1
        self._progress_at = flight.moved_at
        self._last = flight.source
        self.senders[piece] = flight.source, complete
        self._in_vain = {flight.source: self._in_vain.get(flight.source, 0)}
        for other in self._flights:
            if other is not flight and all(self._held[one] for one in other.pieces):
                other.scope.cancel()
        self._arriving.progress(self._ref.cid)
        self._tell()


def _runs(pieces: list[int]) -> list[list[int]]:
    """Ascending pieces as runs without gaps, each one request."""
    runs: list[list[int]] = []
    for piece in sorted(pieces):
        if runs and runs[-1][-1] + 1 == piece:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs
