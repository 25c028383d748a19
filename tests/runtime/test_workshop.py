"""The workshop answers every order to run a unit, and orders that follow on its answer as well."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.effects import Execute, OpenJob, SetPaused, ShutJob
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.events import (
    Event,
    InputsKnown,
    JobOpened,
    UnitExecuted,
    UnitFaulted,
    UnitUnavailable,
)
from p2pfleet.core.model.ids import JobId, cid_from_sha256, cid_of, sha256
from p2pfleet.ports import ExecutionFault
from tests.adapters.sandbox.guarded import guarded, until
from tests.runtime.fake_sandbox import FOREVER
from tests.runtime.workbench import JOB, ME, bench, job_of

INPUT = b"an input"
OWN_JOB = JobId(b"\x08" * 32)


@guarded()
async def test_a_unit_that_is_wanted_again_as_soon_as_it_failed_is_run_again(
    packs: FilePacks,
) -> None:
    """The core says so while the workshop is still telling it of the failure."""
    async with bench(packs) as there:
        there.sandbox.unit_fault = ExecutionFault("crash", "it fell over")
        await there.open(job_of(packs, INPUT))
        for _ in range(4):
            there.act(Execute(JOB, 0, ()))
            await there.next(UnitFaulted)
    assert len(there.sandbox.started) == 4
    assert all(child.dead for child in there.sandbox.started)


@guarded()
async def test_the_time_in_which_the_share_stood_still_counts_for_how_long_units_take(
    packs: FilePacks,
) -> None:
    async with bench(packs, cpu_percent=20) as there:
        there.act(SetPaused(True))
        there.act(OpenJob(JOB, job_of(packs, INPUT), ()))
        there.act(SetPaused(False))
        await there.next(InputsKnown)
        await there.next(JobOpened)
        there.act(Execute(JOB, 0, ()))
        executed = await there.next(UnitExecuted)
        assert there.workshop.cpu_percent == 20
        there.workshop.set_share(60)
        assert there.workshop.cpu_percent == 60
    assert executed.wall_ms == 5, "one millisecond at a fifth of the time"


# ---- jobs of one's own -------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [0, 1])
@guarded()
async def test_a_publisher_runs_its_own_units_in_its_own_sandbox_one_at_a_time(
    packs: FilePacks, slots: int
) -> None:
    async with bench(packs, slots=slots) as there:
        there.sandbox.unit_s = there.own.unit_s = FOREVER
        await there.open(job_of(packs, b"one", b"two", publisher=ME), OWN_JOB)
        await there.open(job_of(packs, b"one", b"two"))
        for job, unit in ((OWN_JOB, 0), (OWN_JOB, 1), (JOB, 0)):
            there.act(Execute(job, unit, ()))
        await until(lambda: there.own.started and there.sandbox.started)
        await until(lambda: all(one.loaded for one in there.own.started + there.sandbox.started))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (len(there.own.started), len(there.sandbox.started)) == (1, 1)
        there.act(ShutJob(OWN_JOB, keep=True))
        assert there.own.started[0].dead
        assert not there.sandbox.started[0].dead
    assert there.sandbox.started[0].dead, "the end of the workshop is theirs as well"


@guarded()
async def test_what_a_publisher_runs_is_answered_as_at_a_volunteer(packs: FilePacks) -> None:
    async with bench(packs, slots=0) as there:
        await there.open(job_of(packs, b"one", b"two", publisher=ME))
        for unit, data in enumerate((b"one", b"two")):
            there.act(Execute(JOB, unit, ()))
            executed = await there.next(UnitExecuted)
            assert (executed.unit, executed.digest, executed.length) == (unit, sha256(data), 3)
            assert packs.read(cid_from_sha256(executed.digest)) == data
        assert len(there.own.started) == 1, "its child is kept warm"
        there.own.unit_fault = ExecutionFault("wall", "too slow")
        there.act(Execute(JOB, 0, ()))
        assert (await there.next(UnitFaulted)).kind == "wall"
    assert there.sandbox.started == []
    assert all(child.dead for child in there.own.started)


@guarded()
async def test_a_pause_and_the_share_hold_for_units_of_own_jobs_too(packs: FilePacks) -> None:
    async with bench(packs) as there:
        await there.open(job_of(packs, INPUT, publisher=ME), OWN_JOB)
        await there.open(job_of(packs, INPUT))
        there.act(SetPaused(True))
        for job in (OWN_JOB, JOB):
            there.act(Execute(job, 0, ()))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert there.own.started == there.sandbox.started == []
        there.act(SetPaused(False))
        assert {(await there.next(UnitExecuted)).job for _ in range(2)} == {OWN_JOB, JOB}


@guarded()
async def test_a_liar_does_not_lie_to_itself(packs: FilePacks) -> None:
    async with bench(packs, twist=lambda output: output[::-1]) as there:
        await there.open(job_of(packs, b"abc", publisher=ME), OWN_JOB)
        await there.open(job_of(packs, b"abc"))
        there.act(Execute(OWN_JOB, 0, ()))
        assert (await there.next(UnitExecuted)).digest == sha256(b"abc")
        there.act(Execute(JOB, 0, ()))
        assert (await there.next(UnitExecuted)).digest == sha256(b"cba")


# ---- keeping outputs ---------------------------------------------------------------------------


@guarded()
async def test_an_output_is_nobodys_until_the_core_has_taken_it_in(packs: FilePacks) -> None:
    cid = cid_of(INPUT)
    async with bench(packs) as there:
        taking, taken = trio.Event(), trio.Event()
        plain = there.carry_out

        async def slow(event: Event) -> None:
            taking.set()
            await taken.wait()
            await plain(event)

        there.carry_out = slow
        await there.open(job_of(packs, INPUT))
        assert not there.workshop.is_untold(cid)
        there.act(Execute(JOB, 0, ()))
        await taking.wait()
        assert packs.has(cid)
        assert there.workshop.is_untold(cid)
        assert not there.workshop.is_untold(cid_of(b"something else"))
        taken.set()
        await there.next(UnitExecuted)
        await trio.testing.wait_all_tasks_blocked()
        assert not there.workshop.is_untold(cid)


@guarded()
async def test_nobody_can_name_the_file_in_which_outputs_lie(
    packs: FilePacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tuple(bytes([number]) * 20 for number in range(3))
    stored: list[list[bytes]] = []
    add_pack = packs.add_pack

    def noted(members: list[bytes]) -> object:
        stored.append(list(members))
        return add_pack(members)

    monkeypatch.setattr(packs, "add_pack", noted)
    async with bench(packs, twist=_doubled) as there:
        await there.open(job_of(packs, *inputs))
        for unit in range(3):
            there.act(Execute(JOB, unit, ()))
        for _ in range(3):
            await there.next(UnitExecuted)
        known = [_doubled(data) for data in inputs]
        for count in range(1, 4):
            for members in itertools.permutations(known, count):
                cid = cid_of(b"".join(members))
                assert packs.has(cid) is (count == 1), "only an output has a name that one can know"
        packs_before = len(stored)
        there.act(Execute(JOB, 1, ()))
        await there.next(UnitExecuted)
        assert len(stored) == packs_before, "what is here is not stored twice"
    salts = [members[-1] for members in stored]
    assert all(len(salt) == 32 for salt in salts)
    assert len(set(salts)) == len(salts)


def _doubled(data: bytes) -> bytes:
    return data * 2


@pytest.mark.parametrize(
    "failure", [P2pfleetError("the disk is full.", "Free some space."), RuntimeError("a surprise")]
)
@guarded()
async def test_an_output_that_cannot_be_kept_is_the_units_bad_luck(
    packs: FilePacks, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def broken(members: object) -> object:
        raise failure

    async with bench(packs, twist=_doubled) as there:
        await there.open(job_of(packs, INPUT))
        with monkeypatch.context() as patch:
            patch.setattr(packs, "add_pack", broken)
            there.act(Execute(JOB, 0, ()))
            event = await there.next(UnitUnavailable)
        assert (event.job, event.unit) == (JOB, 0)
        assert str(failure.args[0])[:8] in event.reason
        await trio.testing.wait_all_tasks_blocked()
        assert not there.workshop.is_untold(cid_of(INPUT * 2))
        there.act(Execute(JOB, 0, ()))
        await there.next(UnitExecuted)
