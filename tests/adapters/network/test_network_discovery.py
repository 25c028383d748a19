"""Finding each other through the DHT, gossip, and noticing who is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from network_harness import QUICK, meet, next_of, node, trio_test, until

from p2pfleet.core.errors import ACCEPT, Reject, Verdict
from p2pfleet.core.model.ids import PeerId, peer_text
from p2pfleet.core.wire.names import MAX_ANNOUNCEMENT_BYTES
from p2pfleet.ports import Announced, Disconnected


class Child:
    """A node in a process of its own, and the lines that it printed."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]

    async def address(self) -> str:
        await until(lambda: any(line.startswith("address ") for line in self.lines))
        return next(line for line in self.lines if line.startswith("address ")).split()[1]

    @property
    def connected(self) -> set[str]:
        now: set[str] = set()
        for line in self.lines:
            word, _, peer = line.partition(" ")
            if word == "connected":
                now.add(peer)
            elif word == "disconnected":
                now.discard(peer)
        return now


@asynccontextmanager
async def child(number: int, *bootstrap: str) -> AsyncIterator[Child]:
    script = str(Path(__file__).with_name("network_child.py"))
    process = await trio.lowlevel.open_process(
        [sys.executable, script, str(number), *bootstrap],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        async with trio.open_nursery() as nursery:
            one = Child(process)
            nursery.start_soon(one.read)
            yield one
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@trio_test(60)
async def test_five_processes_that_know_one_address_all_find_each_other() -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(child(1))
        bootstrap = await first.address()
        children = [first]
        for number in range(2, 6):
            children.append(await stack.enter_async_context(child(number, bootstrap)))
        names = [(await one.address()).rpartition("/")[2] for one in children]
        await until(lambda: all(len(one.connected) == 4 for one in children))
        for one, name in zip(children, names, strict=True):
            assert one.connected == set(names) - {name}


@trio_test(30)
async def test_a_killed_process_is_noticed_at_once_and_a_frozen_one_by_its_silence() -> None:
    config = msgspec.structs.replace(QUICK, ping_every_s=0.5, ping_timeout_s=1.0)
    async with node(1, config=config) as a:
        for how, limit in ((signal.SIGKILL, 2.0), (signal.SIGSTOP, 6.0)):
            async with child(7, a.addresses[0]) as other:
                await until(lambda: len(a.peers()) == 1)
                began = trio.current_time()
                other.process.send_signal(how)
                await next_of(a, Disconnected)
                assert trio.current_time() - began < limit


@trio_test(45)
async def test_an_announcement_reaches_every_node_once() -> None:
    async with (
        node(1) as a,
        node(2, a.addresses) as b,
        node(3, a.addresses) as c,
        node(4, a.addresses) as d,
    ):
        nodes = [a, b, c, d]
        await meet(*nodes)
        heard: dict[PeerId, list[bytes]] = {one.peer: [] for one in nodes}

        async def listen(one: object) -> None:
            while True:
                heard[one.peer].append((await next_of(one, Announced)).data)  # type: ignore[attr-defined]

        async with trio.open_nursery() as nursery:
            for one in nodes:
                nursery.start_soon(listen, one)
            await until(lambda: all(one._gossip._router.mesh[one._gossip._topic] for one in nodes))
            said = [b"announcement %d" % number for number in range(8)]
            for number, data in enumerate(said):
                await nodes[number % 4].announce(data)
                await trio.sleep(0.1)
            await until(lambda: sum(map(len, heard.values())) >= 24)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        for number, one in enumerate(nodes):
            others = [data for index, data in enumerate(said) if index % 4 != number]
            assert sorted(heard[one.peer]) == sorted(others)


@trio_test(30)
async def test_what_the_validator_rejects_is_not_handed_on_and_costs_the_peer() -> None:
    judged: list[bytes] = []

    def judge(peer: PeerId, data: bytes) -> Verdict:
        judged.append(data)
        if data.startswith(b"crash"):
            raise RuntimeError("a validator that fails")
        return Reject("bad") if data.startswith(b"bad") else ACCEPT

    strict = msgspec.structs.replace(QUICK, reject_limit=3)
    async with node(1, validator=judge, config=strict) as a, node(2, a.addresses) as b:
        await meet(a, b)
        await until(lambda: bool(b._gossip._router.mesh[b._gossip._topic]))
        await b.announce(b"crash")
        await b.announce(b"bad 1")
        await b.announce(b"good")
        assert (await next_of(a, Announced)).data == b"good"
        assert judged == [b"crash", b"bad 1", b"good"]
        for number in range(2, 4):
            await b.announce(b"bad %d" % number)
        assert (await next_of(a, Disconnected)).peer == b.peer


@trio_test(30)
async def test_an_announcement_has_a_largest_size_and_a_rate() -> None:
    slow = msgspec.structs.replace(QUICK, announcements_per_s=0.1, announcements_burst=5)
    async with node(1, config=slow) as a, node(2, a.addresses) as b:
        await meet(a, b)
        await until(lambda: bool(b._gossip._router.mesh[b._gossip._topic]))
        with pytest.raises(AssertionError):
            await b.announce(bytes(MAX_ANNOUNCEMENT_BYTES + 1))
        await b.announce(bytes(MAX_ANNOUNCEMENT_BYTES))
        assert len((await next_of(a, Announced)).data) == MAX_ANNOUNCEMENT_BYTES
        for number in range(20):
            await b.announce(b"%d" % number)
            await trio.sleep(0.01)
        heard = 0
        with trio.move_on_after(1.5):
            while True:
                await next_of(a, Announced)
                heard += 1
        assert heard == 4
        assert peer_text(b.peer) in {peer_text(one.peer) for one in a.peers()}
