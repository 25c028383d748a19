"""Three jobs of two publishers while machines die, pause, fall apart and answer wrongly."""

from __future__ import annotations

import random

import pytest
from cluster import Cluster
from core_machine import Machine, Task
from test_core_cluster import check_ledger, check_records

from p2pfleet.core import events as ev

FAULTS = ("wall", "killed", "crash", "input", None, None)


def upset(cluster: Cluster, chance: random.Random) -> None:
    """One thing that goes wrong (or right again) for one machine, or for the wires."""
    names = sorted(machine.name for machine in cluster.machines.values())
    machine = cluster[chance.choice(names)]
    if machine.node is None:
        cluster.start(machine.name)
        return
    what = chance.choice(("die", "die", "pause", "resume", "part", "heal"))
    if what == "die":
        machine.dies_after = chance.randrange(60)
    elif what == "pause":
        cluster.happen(machine, ev.PauseRequested(chance.choice((None, 100, 5_000))))
    elif what == "resume":
        cluster.happen(machine, ev.ResumeRequested())
    else:
        island = set(names[::2]) if what == "part" else set(names)
        cluster.partition(lambda one, other: one in island and other not in island)


def calm(cluster: Cluster) -> None:
    """Everything works again."""
    cluster.partition(lambda one, other: False)
    for machine in list(cluster.machines.values()):
        machine.dies_after = None
        if machine.node is None:
            cluster.start(machine.name)
        cluster.happen(machine, ev.ResumeRequested())


@pytest.mark.parametrize("seed", range(10))
def test_after_chaos_every_unit_of_every_job_is_settled_once_and_right(seed: int) -> None:
    chance = random.Random(seed)
    cluster = Cluster(seed, loss=chance.choice((0.0, 0.1, 0.3)), doubled=0.1, snapshots=seed == 0)
    cluster.add("paula", slots=0)
    cluster.add("pete", slots=2, work_ms=500)
    for number in range(chance.randrange(4, 9)):
        work_ms = chance.choice((20, 300, 3_000))
        lies = "" if number else "lie"
        cluster.add(f"v{number}", slots=chance.choice((1, 2, 4)), work_ms=work_ms, lies=lies)

    def fault(machine: Machine, task: Task) -> ev.Event | None:
        kind = chance.choice(FAULTS) if chance.random() < 0.2 else None
        if kind == "input":
            return ev.UnitUnavailable(*task, "nobody has it")
        return ev.UnitFaulted(*task, kind, "bad luck") if kind else None

    cluster.fault = fault
    publishers = ("paula", "pete", "paula")
    jobs = [
        cluster.publish(
            name,
            name=f"job {number}",
            units=chance.choice((1, 7, 30)),
            replicas_max=16,
            lease_ms=chance.choice((1_000, 10_000, 60_000)),
        )
        for number, name in enumerate(publishers)
    ]
    for _ in range(25):
        upset(cluster, chance)
        cluster.wait(chance.randrange(10, 3_000))
        for machine in cluster.machines.values():
            machine.dies_after = None
    calm(cluster)
    cluster.run(lambda: all(cluster.closed(job) for job in jobs))
    for name, job in zip(publishers, jobs, strict=True):
        check_ledger(cluster, job, name)
    check_records(cluster)
