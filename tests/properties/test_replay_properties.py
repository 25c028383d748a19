"""A node that was written down in the midst of its work goes on with the same effects."""

from __future__ import annotations

from typing import Any

import msgspec
from core_bench import Bench, execute, only, publishing, working
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    GOOD,
    MALLORY,
    PAULA,
    UGLY,
    Poll,
    digest,
    received,
    snapshot,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, JobId
from p2pfleet.core.model.job import Confidence, Trust
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire import messages as ms

UNITS = 6
STOP = Confidence(error_ppb=100_000_000, faulty_ppm=100_000, replicas_max=4)
RINGERS = (ms.Ringer(0, GOOD), ms.Ringer(1, digest("answer 1")))
ANSWERS = (GOOD, BAD, UGLY)
PEERS = (BOB, CAROL, MALLORY)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("votes"), st.integers(0, UNITS - 1), st.sampled_from(ANSWERS)),
        st.tuples(st.just("lies"), st.integers(0, UNITS - 1), st.sampled_from(ANSWERS)),
        st.tuples(st.just("commits"), st.sampled_from(PEERS), st.integers(0, UNITS - 1)),
        st.tuples(st.just("claims"), st.sampled_from(PEERS), st.integers(0, UNITS - 1)),
        st.tuples(st.just("fails"), st.sampled_from(PEERS), st.integers(0, UNITS - 1)),
        st.tuples(st.just("runs"), st.sampled_from(ANSWERS)),
        st.tuples(st.just("gets"), st.sampled_from(["same", "near", "different", "unavailable"])),
        st.tuples(st.just("waits"), st.sampled_from([10, 60, 1_000, 6_000, 30_000])),
        st.tuples(st.just("goes"), st.sampled_from(PEERS)),
        st.tuples(st.just("weighs"), st.integers(1, 40)),
        st.tuples(st.just("pauses"), st.booleans()),
    ),
    max_size=14,
)


class Scene:
    """A bench and those who vote in its job, taken through the same steps in the same way."""

    def __init__(self, bench: Bench, job: JobId) -> None:
        self.bench, self.job, self.poll = bench, job, Poll(job)
        self.attempt = 0
        self.answered = 0

    def read_back(self) -> None:
        data = msgspec.msgpack.encode(self.bench.node)
        self.bench.node = msgspec.msgpack.decode(data, type=Node)

    def asked(self, kind: type[Any]) -> list[Any]:
        """What the node asked for since this was last looked at."""
        found = only(kind, self.bench.effects[self.answered :])
        self.answered = len(self.bench.effects)
        return found

    def step(self, what: str, *how: Any) -> None:
        bench, poll = self.bench, self.poll
        match what, how:
            case "votes", (unit, answer):
                voters = {who: {unit: answer} for who in PEERS[:2]}
                bench.hear(*poll.closed(voters, self.attempt))
                self.attempt += 1
            case "lies", (unit, answer):
                made = poll[MALLORY].commits({unit: answer}, self.attempt, held=UGLY)
                both = (poll[MALLORY].reveals(made), poll[MALLORY].reveals(made, digest=BAD))
                bench.hear(*both, made, source=BOB)
            case "commits", (who, unit):
                bench.hear(poll[who].commits({unit: GOOD}, self.attempt), source=BOB)
            case "claims", (who, unit):
                bench.hear(poll[who].says(ms.Claim((unit,))), source=BOB)
            case "fails", (who, unit):
                bench.hear(poll[who].says(ms.Failure(unit, 0, "cpu: too long")), source=BOB)
            case "runs", (answer,):
                self._run(answer)
            case "gets", (verdict,):
                self._get(verdict)
            case "waits", (for_ms,):
                bench.wait(for_ms)
            case "goes", (who,):
                bench.tell(ev.PeerDisconnected(who))
                bench.meet(who)
            case "weighs", (number,):
                found = snapshot({BOB: number, CAROL: 2}, number)
                bench.tell(received(PAULA, found.sealed))
            case "pauses", (on,):
                bench.tell(ev.PauseRequested(2_000) if on else ev.ResumeRequested())

    def _run(self, answer: Digest) -> None:
        if self.job not in self.bench.node.jobs:
            return
        for effect in self.asked(ef.Execute)[:2]:
            self.bench.tell(ev.UnitExecuted(self.job, effect.unit, answer, 100, 100))
        for effect in self.asked(ef.OpenJob)[:1]:
            self.bench.tell(ev.JobOpened(effect.job))

    def _get(self, verdict: str) -> None:
        for effect in only(ef.Compare, self.bench.effects)[-2:]:
            candidate = Digest(effect.candidate.sha256)
            self.bench.tell(ev.Compared(self.job, effect.unit, candidate, effect.own, verdict))
        for effect in only(ef.Fetch, self.bench.effects)[-2:]:
            if verdict == "unavailable":
                self.bench.tell(ev.BlobFailed(self.job, effect.ref, "nobody has it"))
            else:
                self.bench.tell(ev.BlobArrived(self.job, effect.ref))


def volunteering() -> Scene:
    bench, job = working(units=UNITS, stop=STOP, comparison=Tolerance())
    bench.meet(CAROL, MALLORY)
    execute(bench, job, min(bench.volunteer().held))
    return Scene(bench, job.job)


def judging() -> Scene:
    hidden = Digest(ringers_hash(ms.OpenRingers(bytes(32), RINGERS)))
    trust = Trust(audit_ppm=400_000, ringers=hidden)
    bench, job, _ = publishing(votes=(), units=UNITS, stop=STOP, trust=trust)
    bench.tell(ev.RingersKnown(job, bytes(32), RINGERS))
    bench.meet(MALLORY)
    assert ALICE in bench.node.membership.present()
    return Scene(bench, job)


@settings(max_examples=80)
@given(st.sampled_from([volunteering, judging]), STEPS)
def test_a_node_read_back_before_every_step_replays_to_identical_effects(
    scene: Any, steps: list[Any]
) -> None:
    plain, read = scene(), scene()
    for step in steps:
        read.read_back()
        for one in (plain, read):
            one.step(*step)
        assert read.bench.effects == plain.bench.effects
        assert read.bench.node == plain.bench.node
        assert read.bench.node.deadline() == plain.bench.node.deadline()
