"""Recordings: what the core was told and what it answered, for replay, tests and bug reports.

A recording is a ring of two segments. Each begins with the core's whole state and goes on with one
``(now, event, effects)`` a step; when a segment is full the older one is overwritten. Off by
default. Lengths are 4 bytes, big-endian; contents canonical MessagePack.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from p2pfleet.core.effects import Effect
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.events import Event
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import Millis

log = logging.getLogger(__name__)

SEGMENT_BYTES = 32 * 2**20
MAX_RECORD_BYTES = 512 * 2**20


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One call of the core."""

    now: Millis
    event: Event
    effects: list[Effect]


_encoder = msgspec.msgpack.Encoder()
_node_decoder = msgspec.msgpack.Decoder(Node)
_step_decoder = msgspec.msgpack.Decoder(Step)


class Recorder:
    """Writes the ring ``current`` and ``previous`` in a folder."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._limit = segment_bytes
        self._file: BinaryIO | None = None
        self._size = 0
        self._failed = False

    def before(self, node: Node) -> None:
        """Call before the core handles an event: a new segment starts with the state as it is."""
        if self._failed or (self._file is not None and self._size < self._limit):
            return
        try:
            self._begin(node)
        except OSError as error:
            self._give_up(error)

    def _begin(self, node: Node) -> None:
        self.close()
        current = self._folder / "current"
        if current.exists():
            os.replace(current, self._folder / "previous")
        self._file = current.open("wb", buffering=1 << 16)
        self._size = 0
        self._write(_encoder.encode(node))

    def after(self, now: Millis, event: Event, effects: list[Effect]) -> None:
        """Write one step down."""
        if self._failed:
            return
        try:
            self._write(_encoder.encode(Step(now, event, effects)))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """A recording is worth less than the node: a full disk ends it, not the work."""
        log.warning("the recording ends here: %s", error.strerror or error)
        self._failed = True
        with suppress(OSError):
            self.close()

    def _write(self, record: bytes) -> None:
        assert self._file is not None
        self._file.write(len(record).to_bytes(4, "big"))
        self._file.write(record)
        self._size += len(record) + 4

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def segments(folder: Path) -> list[Path]:
    """The segments of a recording, the older first."""
    return [path for name in ("previous", "current") if (path := folder / name).exists()]


def replay(segment: Path) -> Iterator[tuple[int, Step, list[Effect]]]:
    """Run a segment through a fresh core: (number, the recorded step, the effects now).

    A recording cut off by a crash ends at its last whole step. Raises :class:`P2pfleetError` if
    the file is not a recording of this version.
    """
    with segment.open("rb") as file:
        head = _read(file)
        if head is None:
            return
        try:
            node = _node_decoder.decode(head)
        except msgspec.MsgspecError as error:
            raise P2pfleetError(
                f"{segment} is not a recording of this version ({error}).",
                "Replay it with the version that wrote it.",
            ) from error
        number = 0
        while (record := _read(file)) is not None:
            try:
                step = _step_decoder.decode(record)
            except msgspec.MsgspecError as error:
                raise P2pfleetError(
                    f"{segment} is damaged at step {number} ({error}).",
                    "What stands before it can still be replayed.",
                ) from error
            yield number, step, node.handle(step.event, step.now)
            number += 1


def _read(file: BinaryIO) -> bytes | None:
    head = file.read(4)
    length = int.from_bytes(head, "big")
    if len(head) < 4 or length > MAX_RECORD_BYTES:
        return None
    record = file.read(length)
    return record if len(record) == length else None


def differences(folder: Path) -> list[str]:
    """What a replay of a whole recording does otherwise; empty if nothing."""
    found = []
    for segment in segments(folder):
        for number, step, effects in replay(segment):
            if _encoder.encode(effects) != _encoder.encode(step.effects):
                found.append(
                    f"{segment.name} step {number}: {type(step.event).__name__} "
                    f"gave {effects} where {step.effects} was recorded"
                )
    return found
