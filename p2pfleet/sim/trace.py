"""What happened, as one hash: equal seed, scenario and code give an equal trace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect
from p2pfleet.core.events import Event
from p2pfleet.sim.story import Story


class Trace:
    """SHA-256 over every event with its effects, and over every fault, in order.

    Each is encoded as canonical MessagePack, which needs no separators. A received frame stands
    there by its hash, which says the same in fewer bytes.
    """

    def __init__(self, story: Story | None = None) -> None:
        self._hash = hashlib.sha256()
        self._encode = msgspec.msgpack.Encoder().encode
        self.story = story
        self.steps = 0

    def step(
        self, now: int, number: int, name: str, event: Event, effects: Sequence[Effect]
    ) -> None:
        """One event taken in by a machine's core, and what the core answered."""
        self.steps += 1
        short: object = event
        if type(event) is ev.FrameReceived:
            short = (event.source, event.frame.hash)
        self._hash.update(self._encode((now, number, short, effects)))
        if self.story is not None:
            self.story.step(now, name, event, effects)

    def note(self, now: int, name: str, text: str) -> None:
        """Something that happened to a machine without its core."""
        self._hash.update(self._encode((now, name, text)))
        if self.story is not None:
            self.story.note(now, name, text)

    def digest(self) -> str:
        """The hash so far, as hexadecimal digits."""
        return self._hash.hexdigest()
