"""A disk that takes no writes: nothing is announced, nothing lost, and it goes on by itself."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfleet.adapters.store import FilePacks, SqliteStore
from p2pfleet.adapters.store.durable_file import explain_os_error
from p2pfleet.core import events as ev
from p2pfleet.core.effects import Execute, SetPaused, Want, Write
from p2pfleet.core.errors import DiskTrouble
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import PeerId
from p2pfleet.runtime.disk import DiskWatch
from p2pfleet.runtime.driver import Driver
from p2pfleet.runtime.signing import open_sealed
from tests.runtime.signed_bodies import NETWORK, PAULA, WALL_MS, manifest
from tests.runtime.test_receipts import StandingClock, guarded
from tests.runtime.workbench import JOB, bench, job_of

FAULTS = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EROFS: "read-only", errno.EIO: "failed"}


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again; the test itself has a time limit."""
    while not holds():  # noqa: ASYNC110 - what happens there tells nobody
        await trio.sleep(0.02)


class BadDisk:
    """Fails with ``fault`` as long as there is one, and counts the attempts."""

    def __init__(self, fault: int | None) -> None:
        self.fault = fault
        self.attempts = 0
        self.tried = trio.Event()

    def touch(self) -> None:
        self.attempts += 1
        if self.fault is not None:
            trio.from_thread.run_sync(self.tried.set)
            raise explain_os_error(OSError(self.fault, "no"), Path("/somewhere/node.sqlite"))


class BadStore(BadDisk):
    """A store on such a disk."""

    def __init__(self, store: SqliteStore, fault: int | None) -> None:
        super().__init__(fault)
        self.store = store

    def apply(self, writes: Sequence[Write]) -> None:
        self.touch()
        self.store.apply(writes)


class Wires:
    """A network in which nothing but gossip and being alone is looked at."""

    def __init__(self) -> None:
        self.announced: list[bytes] = []
        self.alone: list[bool] = []
        self.gossiped = trio.Event()

    async def announce(self, data: bytes) -> None:
        self.announced.append(data)
        self.gossiped.set()

    def hold_off(self, alone: bool) -> None:
        self.alone.append(alone)

    def attend(self, wants: Sequence[Want]) -> None:
        assert not wants

    def watch(self, peers: Sequence[PeerId]) -> None:
        assert not peers


class Orders:
    """A workshop that only writes down when it is to stand still."""

    def __init__(self) -> None:
        self.paused: list[bool] = []

    def act(self, effect: Any) -> None:
        if isinstance(effect, SetPaused):
            self.paused.append(effect.paused)


@pytest.mark.parametrize(("fault", "word"), FAULTS.items())
def test_what_is_not_durable_is_not_announced_and_is_once_there_is_room(
    tmp_path: Path, fault: int, word: str
) -> None:
    @guarded
    async def body() -> None:
        real = SqliteStore.open(tmp_path / "node.sqlite")
        store, wires, orders = BadStore(real, None), Wires(), Orders()
        disk = DiskWatch(every_s=0.05)
        node = Node.create(PAULA.peer, NETWORK, 0, (), Consent(Capability("A", b"", "1.32.0")))
        driver = Driver(
            node,
            store=store,  # type: ignore[arg-type]
            network=wires,  # type: ignore[arg-type]
            workshop=orders,  # type: ignore[arg-type]
            signer=PAULA,
            clock=StandingClock(),
            disk=disk,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            await nursery.start(disk.run, driver.submit)
            await driver.carry_out(ev.Started(1, WALL_MS, "test", (), bytes(32)))
            await driver.carry_out(ev.RestoreFinished())
            store.fault = fault
            job = open_sealed(manifest(1))
            assert hasattr(job, "manifest")
            nursery.start_soon(driver.publish, job.manifest)
            await store.tried.wait()
            await until(lambda: store.attempts >= 4)
            assert word in disk.reason
            assert disk.reason.endswith("it resumes by itself")
            assert (wires.announced, wires.alone, orders.paused) == ([], [True], [True])
            assert real.jobs() == []
            store.fault = None
            await wires.gossiped.wait()
            assert len(real.jobs()) == 1
            assert wires.alone == [True, False]
            await until(lambda: not (disk.reason or driver.node.hindered))
            assert orders.paused[-1] is False
            nursery.cancel_scope.cancel()
        real.close()

    body()


@guarded
async def test_an_output_waits_until_the_disk_takes_it(tmp_path: Path) -> None:
    packs = FilePacks(tmp_path / "packs", 2**30, 0)
    bad = BadDisk(None)
    keep = packs.add_pack

    def kept(members: Sequence[bytes]) -> Any:
        bad.touch()
        return keep(members)

    disk = DiskWatch(bad.touch, every_s=0.05)
    told: list[ev.Event] = []

    async def tell(event: ev.Event) -> None:
        told.append(event)

    async with (
        bench(packs, disk=disk, twist=lambda output: output * 2) as one,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(disk.run, tell)
        await one.open(job_of(packs, b"input"))
        packs.add_pack = kept  # type: ignore[method-assign]
        bad.fault = errno.ENOSPC
        one.act(Execute(JOB, 0, ()))
        await bad.tried.wait()
        await until(lambda: bad.attempts >= 4)
        assert one.quiet()
        bad.fault = None
        assert (await one.next(ev.UnitExecuted)).unit == 0
        await until(lambda: len(told) >= 2)
        first, last = told[0], told[-1]
        assert isinstance(first, ev.DiskChanged)
        assert "full" in first.reason
        assert last == ev.DiskChanged("")
        nursery.cancel_scope.cancel()
    packs.close()


def test_a_disk_without_room_for_anybody_is_told_from_one_without_room_for_this_blob(
    tmp_path: Path,
) -> None:
    quota = FilePacks(tmp_path / "quota", 1000, 0)
    with pytest.raises(Exception, match="quota") as refused:
        quota.add(bytes(2000))
    assert not isinstance(refused.value, DiskTrouble)
    quota.close()
    full = FilePacks(tmp_path / "full", 2**50, 2**50)
    with pytest.raises(DiskTrouble, match="are to stay free"):
        full.check_room()
    full.close()
