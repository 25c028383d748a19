"""Each adversary does what its file says, and what the protocol has against it takes effect."""

from __future__ import annotations

from typing import Any

import pytest
from worlds import table, with_adversary, world

from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire.messages import Closure, Commit, Reveal
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.resources import resource_path
from p2pfleet.sim.adversaries.on_off import TRUSTED_CHECKS
from p2pfleet.sim.adversaries.sybil import IDENTITIES_MAX
from p2pfleet.sim.cluster import Cluster
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.machine import Machine
from p2pfleet.sim.run import Panel
from p2pfleet.sim.scenario import Scenario, load_scenario
from p2pfleet.sim.signatures import unseal
from p2pfleet.sim.trace import Trace

CONFIDENT = {
    "publisher": "paula-0",
    "units": 60,
    "confidence": 0.99,
    "assume_faulty": 0.2,
    "replicas_max": 12,
    "audit": 0.2,
    "ringers": 5,
    "crowd": 6,
}


def ran(scenario: Scenario, until: int, seed: int = 1) -> tuple[Cluster, Panel]:
    """A world at a time, and what its checkers have seen until then."""
    kernel = Kernel(seed)
    cluster = Cluster(scenario, kernel, Trace())
    panel = Panel(cluster)
    cluster.world.witness = panel
    cluster.begin()
    kernel.run(until)
    return cluster, panel


def moves(cluster: Cluster) -> dict[str, set[str]]:
    """By machine what the publisher's moves say of it, under whatever identity."""
    found: dict[str, set[str]] = {}
    for stored in cluster.by_name["paula-0"].disk.jobs.values():
        for (_, peer), kind in stored.moves.items():
            found.setdefault(cluster.world.by_peer[peer].name, set()).add(kind)
    return found


def settled(cluster: Cluster) -> int:
    (stored,) = cluster.by_name["paula-0"].disk.jobs.values()
    return sum(row.state == "settled" for row in stored.units.values())


def entries(machine: Machine, author: PeerId, kind: type[Any]) -> list[Any]:
    """What somebody wrote, by the frames that a machine has."""
    frames = [unseal(sealed) for sealed in machine.disk.frames.values()]
    return [
        entry
        for frame in frames
        if isinstance(frame, VerifiedFrame) and frame.author == author
        for entry in frame.frame.entries
        if isinstance(entry, kind)
    ]


def test_a_copier_commits_without_the_bytes_and_is_caught_at_it() -> None:
    cluster, panel = ran(world(machines=with_adversary("copier", 2)), 60_000)
    assert panel.found() == ()
    assert settled(cluster) == 20
    found = moves(cluster)
    assert "false commitment" in found.get("x-0", set()) | found.get("x-1", set())
    assert not any("false commitment" in found[f"v-{n}"] for n in range(5))


def test_who_copies_alone_never_certifies_anything() -> None:
    machines = [{"name": "paula", "slots": 0}, {"name": "v"}]
    machines.append({"name": "x", "count": 4, "adversary": "copier"})
    cluster, panel = ran(world(machines=machines), 60_000)
    assert [found for found in panel.found() if found.checker == "safety"] == []
    assert settled(cluster) == 0


def test_an_equivocator_is_proved_to_be_one_on_every_honest_disk() -> None:
    jobs = [{"publisher": "paula-0", "units": 60}]
    cluster, panel = ran(world(machines=with_adversary("equivocator"), jobs=jobs), 30_000)
    liar = cluster.by_name["x-0"].peer
    assert panel.evidence.stories[liar]
    assert panel.found() == ()
    for machine in cluster.machines:
        if machine.honest:
            assert list(machine.disk.proofs) == [liar]


def test_an_on_off_cheat_lies_only_once_the_snapshot_trusts_it_and_is_caught() -> None:
    machines = with_adversary("on-off", history=TRUSTED_CHECKS - 1)
    machines[1]["history"] = TRUSTED_CHECKS - 1
    kernel = Kernel(1)
    cluster = Cluster(world(machines=machines, jobs=[CONFIDENT]), kernel, Trace())
    cluster.world.witness = panel = Panel(cluster)
    cheat = cluster.by_name["x-0"]
    lies: list[int] = []
    honest = cheat.behaviour.answer

    def watched(job: Any, unit: int) -> Any:
        answer = honest(job, unit)
        assert answer is not None
        if answer[0] != cheat.behaviour.right(job, unit):
            assert cheat.node is not None
            lies.append(cheat.node.jobs[job].settlement.checks(cheat.peer))
        return answer

    cheat.behaviour.answer = watched  # type: ignore[method-assign]
    cluster.begin()
    kernel.run(90_000)
    assert lies
    assert min(lies) >= TRUSTED_CHECKS
    assert settled(cluster) == 60
    assert panel.safety.wrong == {}
    assert moves(cluster)["x-0"] & {"contradicted", "failed audit", "failed ringer"}


def test_a_sybil_comes_back_under_fresh_keys_a_few_times_and_nothing_follows_it() -> None:
    machines = with_adversary("sybil", 2)
    cluster, panel = ran(world(machines=machines, jobs=[CONFIDENT]), 120_000)
    assert panel.found() == ()
    assert settled(cluster) == 60
    for machine in (cluster.by_name["x-0"], cluster.by_name["x-1"]):
        assert 1 < machine.identities <= IDENTITIES_MAX
        assert machine.name in moves(cluster)
        keys = [peer for peer, one in cluster.world.by_peer.items() if one is machine]
        assert len(keys) == machine.identities
        assert all(frame[1] == machine.peer for frame in machine.disk.frames if frame[1] in keys)


def test_who_never_reveals_has_no_vote_and_delays_nobody_for_long() -> None:
    cluster, panel = ran(world(machines=with_adversary("secretive", 2)), 60_000)
    paula = cluster.by_name["paula-0"]
    assert panel.found() == ()
    assert settled(cluster) == 20
    for name in ("x-0", "x-1"):
        author = cluster.by_name[name].peer
        assert entries(paula, author, Commit)
        assert not entries(paula, author, Reveal)
        assert name not in moves(cluster)


def test_a_crook_can_take_work_but_nothing_else_from_its_volunteers() -> None:
    cluster, panel = ran(load_scenario(resource_path("testnet", "scenarios", "crook.toml")), 75_000)
    crook = cluster.by_name["crook-0"]
    assert panel.found() == ()
    assert any(job.own for job in crook.disk.jobs.values())
    ends: set[str] = set()
    for machine in cluster.machines:
        if not machine.honest or not machine.kind.slots:
            continue
        node = machine.node
        assert node is not None
        assert not node.jobs
        assert machine.disk.proofs == {}
        assert machine.compute.executed <= 120  # each unit of each job once, however often asked
        for job, stored in machine.disk.jobs.items():
            if cluster.publisher(job) is crook:
                ends.add(stored.state)
                assert stored.closure is None or isinstance(unseal(stored.closure).closure, Closure)  # type: ignore[union-attr]
    assert ends <= {"cancelled", "expired", "completed"}
    assert "cancelled" in ends


@pytest.mark.parametrize("seed", [1, 2])
def test_while_their_publisher_is_away_volunteers_certify_and_audit_each_other(seed: int) -> None:
    scenario = load_scenario(resource_path("testnet", "scenarios", "absent.toml"))
    cluster, _ = ran(scenario, 115_000, seed)
    assert cluster.by_name["paula-0"].node is None
    (job,) = cluster.published
    again = 0
    for machine in cluster.machines:
        if machine.honest and machine.node is not None:
            known = machine.node.jobs[job]
            decided = known.settlement.count("certified") + known.settlement.count("settled")
            assert decided >= 0.95 * known.manifest.units
            assert known.volunteer is not None
            again += len(known.volunteer.audits)
    assert again


def test_an_adversary_of_every_kind_can_be_named() -> None:
    sections = table()
    for kind in ("copier", "crook", "on-off", "secretive", "sybil"):
        assert world(machines=[*sections["machines"], {"name": "x", "adversary": kind}])
