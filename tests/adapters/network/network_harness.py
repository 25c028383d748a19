"""What the network's tests share: running trio, small ports, waiting for events."""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from p2pfleet.adapters.network import NetworkConfig, open_network
from p2pfleet.core.errors import ACCEPT, Verdict
from p2pfleet.core.model.ids import Cid, NetworkId, PeerId, cid_of
from p2pfleet.core.model.job import BlobRef
from p2pfleet.ports import (
    BanBook,
    BlobGate,
    Connected,
    Disconnected,
    MemberGate,
    RecordRule,
    Validator,
)

NETWORK = NetworkId(hashlib.sha256(b"a network of tests").digest())
T = TypeVar("T")

QUICK = NetworkConfig(retry_first_s=0.2, greeting_s=4.0, visit_s=2.0, lookup_first_s=0.2)


def trio_test(seconds: float = 30.0) -> Callable[[Callable[..., Awaitable[None]]], Any]:
    """Run an async test under trio, within ``seconds``."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Any:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            async def limited() -> None:
                with trio.fail_after(seconds):
                    await test(*args, **kwargs)

            trio.run(limited)

        return run

    return decorate


class RealClock:
    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class Book:
    """An address book in memory."""

    def __init__(self, entries: list[tuple[PeerId, str]] | None = None) -> None:
        self.entries = entries or []

    def load_addresses(self) -> list[tuple[PeerId, str]]:
        return list(self.entries)

    def save_address(self, peer: PeerId, address: str, now_ms: int) -> None:
        assert now_ms > 0
        self.entries.insert(0, (peer, address))


class Shelf:
    """Blobs in files, by CID."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[Cid, tuple[Path, int, int]] = {}
        self.looked_up: list[Cid] = []

    def put(self, data: bytes, name: Cid | None = None) -> Cid:
        cid = name or cid_of(data)
        path = self.folder / f"{len(self.places)}.blob"
        path.write_bytes(data)
        self.places[cid] = (path, 0, len(data))
        return cid

    def locate(self, cid: Cid) -> tuple[Path, int, int] | None:
        self.looked_up.append(cid)
        return self.places.get(cid)


class MemoryPartial:
    """A blob that arrives in memory."""

    def __init__(self, ref: BlobRef, present: bytes = b"") -> None:
        self.ref = ref
        self.data = bytearray(present)
        self.restarts = 0
        self.finished = False
        self.on_write: Callable[[], None] = lambda: None

    @property
    def present(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data
        self.on_write()

    def pieces(self) -> None:
        return None

    def restart(self) -> None:
        self.data.clear()
        self.restarts += 1

    def finish(self) -> bool:
        if hashlib.sha256(self.data).digest() == self.ref.sha256:
            self.finished = True
            return True
        self.restart()
        return False


def ref_of(data: bytes) -> BlobRef:
    return BlobRef(cid_of(data), 0, len(data), hashlib.sha256(data).digest())


def seed_of(number: int) -> bytes:
    return hashlib.sha256(b"test seed %d" % number).digest()


def accept(peer: PeerId, data: bytes) -> Verdict:
    return ACCEPT


def anybody(peer: PeerId, cid: Cid) -> bool:
    return True


def node(
    number: int,
    bootstrap: tuple[str, ...] = (),
    *,
    config: NetworkConfig = QUICK,
    validator: Validator = accept,
    book: Book | None = None,
    blobs: Any = None,
    may_fetch: BlobGate = anybody,
    network: NetworkId = NETWORK,
    gate: MemberGate | None = None,
    swarm_key: bytes | None = None,
    records: RecordRule | None = None,
    bans: BanBook | None = None,
) -> AbstractAsyncContextManager[Any]:
    """Open the network as node ``number``."""
    return open_network(
        msgspec.structs.replace(config, bootstrap=bootstrap or config.bootstrap),
        seed=seed_of(number),
        network=network,
        validator=validator,
        addresses=book or Book(),
        blobs=blobs or Shelf(Path()),
        may_fetch=may_fetch,
        clock=RealClock(),
        gate=gate,
        swarm_key=swarm_key,
        records=records,
        bans=bans,
    )


async def next_of(network: Any, kind: type[T]) -> T:
    """The next event of one kind; others are passed over."""
    while True:
        event = await network.events.receive()
        if isinstance(event, kind):
            return event


async def meet(*networks: Any) -> None:
    """Wait until every one of these reported every other."""
    for network in networks:
        wanted = {other.peer for other in networks} - {network.peer}
        while wanted - {one.peer for one in network.peers()}:
            await next_of(network, Connected)


async def part(network: Any, peer: PeerId) -> None:
    """Wait until ``network`` reported that ``peer`` is gone."""
    while (await next_of(network, Disconnected)).peer != peer:
        pass


async def until(condition: Callable[[], bool], pause: float = 0.02) -> None:
    """Wait for something that sends no event."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(pause)


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)
