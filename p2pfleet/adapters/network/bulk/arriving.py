"""What is arriving here in pieces now, to be handed on meanwhile."""

from __future__ import annotations

from collections import defaultdict

import trio

from p2pfleet.core.model.ids import Cid, cid_from_sha256
from p2pfleet.core.wire.names import PIECE_BYTES
from p2pfleet.ports import ArrivingPieces, PartialBlob


class Arriving:
    """The whole blobs that are being fetched, by CID. (Ranges of packs are nobody else's.)"""

    def __init__(self) -> None:
        self._here: dict[Cid, tuple[int, ArrivingPieces]] = {}
        self._changed: defaultdict[Cid, trio.Event] = defaultdict(trio.Event)

    def begin(self, partial: PartialBlob, pieces: ArrivingPieces) -> bool:
        """Hand on what is here of ``partial`` from now on; whether it is the first of its name."""
        ref = partial.ref
        if ref.offset or ref.cid != cid_from_sha256(ref.sha256) or ref.cid in self._here:
            return False
        self._here[ref.cid] = ref.length, pieces
        return True

    def end(self, cid: Cid) -> None:
        """It is kept now, or given up."""
        self._here.pop(cid, None)
        self.progress(cid)

    def progress(self, cid: Cid) -> None:
        """A piece has come."""
        changed = self._changed.pop(cid, None)
        if changed is not None:
            changed.set()

    async def wait(self, cid: Cid, seconds: float) -> None:
        """Wait until something comes of a blob that is arriving; at most ``seconds``."""
        with trio.move_on_after(seconds):
            await self._changed[cid].wait()

    def held(self, cid: Cid, offset: int, length: int) -> bytearray | None:
        """Which pieces of this range are here, one byte each; ``None`` if it is not arriving."""
        found = self._here.get(cid)
        if found is None or offset or length != found[0]:
            return None
        return found[1].held()

    def open(self, cid: Cid, offset: int, length: int) -> tuple[int, int] | None:
        """A descriptor and a position to read a range from, if all of it is here."""
        found = self._here.get(cid)
        if found is None or not length or offset + length > found[0]:
            return None
        held = found[1].held()
        first, last = offset // PIECE_BYTES, (offset + length - 1) // PIECE_BYTES
        if not all(held[first : last + 1]):
            return None
        descriptor = found[1].open()
        return None if descriptor is None else (descriptor, offset)
