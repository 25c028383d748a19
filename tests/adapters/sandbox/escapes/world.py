"""What lies about for an attacker to find, and whether it is still there afterwards."""

from __future__ import annotations

import ctypes
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from .means import World, call

_SECRET = b"secret of the machine"
MEMORY_BYTES = 32 * 2**20
"""What a child is granted."""

TOO_MUCH = 192 * 2**20
"""More than that, and than the slack of its address space."""

ARENA_BYTES = 2**20
WALL_MS = 1_500
TOO_LONG_SECONDS = 2.5
"""Longer than the wall limit."""


class Surroundings(NamedTuple):
    """The world, before it is known which processes there are, and its owner's view of it."""

    world: World
    folder: Path
    listeners: tuple[socket.socket, ...]

    def damage(self) -> list[str]:
        """What is no longer as it was: sentences; none if nothing got out."""
        found = []
        names = sorted(path.name for path in self.folder.iterdir())
        if names != ["secret", "socket", "spare"]:
            found.append(f"the folder holds {names}")
        elif (self.folder / "spare").read_bytes() != _SECRET:
            found.append("a file has changed")
        for listener in self.listeners:
            try:
                listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()
            except BlockingIOError:
                continue
            found.append(f"somebody reached {listener.getsockname()!r}")
        return found

    def restore(self) -> None:
        """Put back what an unlocked attempt may have taken."""
        for path in (self.folder / "spare2", self.folder / "link", self.folder / "new"):
            path.unlink(missing_ok=True)
        (self.folder / "spare").write_bytes(_SECRET)
        (self.folder / "spare").chmod(0o666)


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Files, sockets and memory that everybody may use, so that no permission is in the way."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        folder.chmod(0o777)
        for name in ("secret", "spare"):
            (folder / name).write_bytes(_SECRET)
            (folder / name).chmod(0o666)
        listeners = []
        abstract = b"\0p2pfleet-%d" % os.getpid()
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
            (socket.AF_UNIX, socket.SOCK_STREAM, abstract),
        ):
            listener = stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            listener.setblocking(False)
            listeners.append(listener)
        (folder / "socket").chmod(0o777)
        segment = call("shmget", 0, 4096, 0o1666)
        attached = call("shmat", segment, 0, 0)
        ctypes.memmove(attached, _SECRET, len(_SECRET))
        # Gone with this process, however it ends; until then others may attach it.
        call("shmctl", segment, 0, 0)
        stack.callback(call, "shmdt", attached)
        world = World(
            folder=bytes(folder),
            secret=bytes(folder / "secret"),
            spare=bytes(folder / "spare"),
            socket_path=bytes(folder / "socket"),
            abstract=abstract,
            tcp_port=listeners[0].getsockname()[1],
            udp_port=listeners[1].getsockname()[1],
            segment=segment,
            processes=(),
            too_much=TOO_MUCH,
            too_long=TOO_LONG_SECONDS,
            arena_sizes={"inputs": MEMORY_BYTES, "outputs": ARENA_BYTES},
            processors=tuple(sorted(os.sched_getaffinity(0))),
        )
        yield Surroundings(world, folder, tuple(listeners))


def model_of(name: str, world: World) -> bytes:
    """The Python that stands in the place of a model: it carries out the attempt ``name``."""
    return f"got = {name}(World(**{world._asdict()!r}))".encode()
