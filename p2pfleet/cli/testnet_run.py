"""``testnet run``: a scenario on real processes, and whether what must hold held."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from p2pfleet.cli.folders import join_network, make_folder
from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.local_network import HERE, PEERS_WANTED, LocalNetwork
from p2pfleet.cli.local_publication import Published, publish_here, temporary_folder
from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, exit_codes, table
from p2pfleet.cli.testnet_apart import Apart
from p2pfleet.cli.testnet_books import judge_books
from p2pfleet.cli.testnet_condition import Condition
from p2pfleet.cli.testnet_groups import PUBLISHER
from p2pfleet.cli.testnet_hosts import ScenarioHosts, scenario_hosts
from p2pfleet.cli.testnet_publication import enlarge_model, publish_there
from p2pfleet.cli.testnet_scenario import NetworkScenario, find_scenario, load_network_scenario
from p2pfleet.cli.testnet_stage import Stage
from p2pfleet.cli.waiting import outcome
from p2pfleet.config.network_file import load_network
from p2pfleet.core.effects import RecordRow, SaveRecords
from p2pfleet.core.errors import ExitCode
from p2pfleet.core.model.ids import parse_peer
from p2pfleet.core.model.record import MILLI, Record
from p2pfleet.core.rules.reputation import score

if TYPE_CHECKING:
    from p2pfleet.verify import Verification


@click.command(epilog=exit_codes(ExitCode.NO_PEERS))
@click.argument("scenario")
@click.option(
    "--dir", "directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
    help="Where network, logs and results go, and stay (default: a temporary folder).",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the temporary folder.")
@common
@click.pass_obj
def run(output: Output, scenario: str, directory: Path | None, keep: bool) -> int:
    """Run SCENARIO on real processes: start them, publish the job, check what must hold.

    SCENARIO is a file, or the name of one of those in testnet/scenarios that are for real
    processes; p2pfleet sim runs the others. Those with network = "namespaces" need root. Every
    settled answer is compared with onnxruntime's own, every certificate is recomputed. Exits with
    1 if anything that must hold did not. No process and no host is left, whatever happens.
    """
    plan = load_network_scenario(find_scenario(scenario))
    begin = time.monotonic()
    interruptions = Interruptions()
    with (
        interruptions.raised(),
        _folder(output, interruptions, directory, keep) as folder,
        scenario_hosts(plan) as hosts,
    ):
        network = LocalNetwork(folder / "network", output.note)
        results = _fresh(folder)
        try:
            output.note(f"{plan.name}: starting {plan.nodes} nodes, {plan.liars} of them lying")
            network.up(
                plan.nodes,
                plan.liars,
                interruptions,
                slots=plan.slots,
                while_we_live=True,
                seats=hosts.seats if hosts is not None else (),
                peers=hosts.peers if hosts is not None else PEERS_WANTED,
            )
            started_s = time.monotonic() - begin
            if plan.staged:
                published, seen, sent, apart = _perform(
                    output, plan, network, hosts, interruptions, results
                )
            else:
                published = _publish(output, plan, network, folder / "publisher", results)
                seen, sent, apart = [], [], []
        finally:
            network.down(interruptions)
        seen += judge_books(plan, network, str(published.job["id"]), apart)
        document, lines = _judge(plan, network, results, published, seen)
        document["sent_bytes"] = sent
    document["started_s"] = round(started_s, 1)
    document["seconds"] = round(time.monotonic() - begin, 1)
    document["directory"] = str(folder) if keep or directory is not None else None
    lines.append(
        f"{document['seconds']} s in all, {document['started_s']} s of them until every node was "
        "up; every process of it is gone"
    )
    output.result(document, lines)
    return ExitCode.OK if document["held"] else ExitCode.FAILED


@contextmanager
def _folder(
    output: Output, interruptions: Interruptions, directory: Path | None, keep: bool
) -> Iterator[Path]:
    if directory is None:
        with temporary_folder(output, interruptions, "testnet", keep) as folder:
            yield folder
        return
    folder = directory.expanduser().absolute()
    make_folder(folder)
    yield folder


def _fresh(folder: Path) -> Path:
    """A results folder that nothing lies in yet: one proves one job."""
    number = 0
    while (found := folder / f"results-{number}").exists():
        number += 1
    return found


def _publish(
    output: Output, plan: NetworkScenario, network: LocalNetwork, data_dir: Path, results: Path
) -> Published:
    join_network(data_dir, load_network(network.network_file))
    if plan.history:
        _remember(plan, network, data_dir)
    return publish_here(
        output,
        network,
        data_dir,
        results,
        plan.request(),
        until=lambda: time.monotonic() + plan.expect.within_s,
        go_on="The scenario ends here; run it with --keep for logs.",
    )


def _perform(
    output: Output,
    plan: NetworkScenario,
    network: LocalNetwork,
    hosts: ScenarioHosts | None,
    interruptions: Interruptions,
    results: Path,
) -> tuple[Published, list[Condition], list[int], list[Apart]]:
    """Publish from a process of its own, and let the scenario's events happen.

    What came of it, what was seen of it, the bytes that each host sent, the publisher last, and
    what sides of a cut had certified.
    """
    data_dir = network.folder(len(network.nodes))
    join_network(data_dir, load_network(network.network_file))
    if plan.history:
        _remember(plan, network, data_dir)
    seat = hosts.publisher_seat if hosts is not None else HERE
    publisher = network.add_publisher(interruptions, seat)
    stage = Stage(plan, network, publisher, hosts, interruptions, output.note)
    request = plan.request()
    model = Path(request.model)
    if plan.model_mb:
        model = data_dir / "model.onnx"
        enlarge_model(Path(request.model), model, plan.model_mb * 10**6, plan.seed)
        request = msgspec.structs.replace(request, model=str(model))
    before = hosts.sent_bytes() if hosts is not None else []

    def note_bytes() -> None:
        if hosts is not None:
            before[:] = hosts.sent_bytes()

    published = publish_there(
        output, network, publisher, stage, request, results, plan.expect.within_s, note_bytes
    )
    seen = stage.close()
    sent: list[int] = []
    if hosts is not None:
        sent = [now - then for now, then in zip(hosts.sent_bytes(), before, strict=True)]
        seen.append(_sent(plan, sent, model.stat().st_size))
    return published, seen, sent, stage.apart


def _sent(plan: NetworkScenario, sent: list[int], model_bytes: int) -> Condition:
    """What each host sent while the job ran, against the size of the model."""
    most = plan.expect.sent_max
    largest = max(range(len(sent)), key=sent.__getitem__)
    who = PUBLISHER if largest == len(sent) - 1 else f"node {largest}"
    text = f"{who} sent most, {sent[largest] / 1e6:.2f} MB, {sent[largest] / model_bytes:.2f} times"
    return Condition(
        f"no host sent more than {most:g} times the model's size"
        if most
        else "what hosts sent is known",
        not most or sent[largest] <= most * model_bytes,
        f"{text} the model's {model_bytes / 1e6:.2f} MB; all of them {sum(sent) / 1e6:.2f} MB",
    )


def _remember(plan: NetworkScenario, network: LocalNetwork, data_dir: Path) -> None:
    """Give the publisher its history with every node, before it starts."""
    from p2pfleet.adapters.store import SqliteStore, lock_data_dir

    record = Record(agreed=plan.history, milli=plan.history * MILLI)
    rows = tuple(
        RecordRow(plan.job.model_class, parse_peer(node.peer), record) for node in network.nodes
    )
    with lock_data_dir(data_dir) as folder:
        store = SqliteStore.open(folder / "node.sqlite")
        try:
            store.apply([SaveRecords(rows)])
        finally:
            store.close()


# ---- what came of it -------------------------------------------------------------------------


def _judge(
    plan: NetworkScenario,
    network: LocalNetwork,
    results: Path,
    published: Published,
    seen: list[Condition],
) -> tuple[dict[str, Any], list[str]]:
    """What the run showed: as a document, and for people."""
    from p2pfleet.verify import verify_results

    verification = verify_results(results)
    wrong = _wrong_settled(plan, results)
    nodes = _nodes(plan, network, published)
    conditions = _conditions(plan, published, verification, wrong, nodes) + seen
    job = published.job
    document = {
        "held": all(condition.held for condition in conditions),
        "scenario": plan.name,
        "job": job["id"],
        "state": job["state"],
        "units": job["units"],
        "settled": job["settled"],
        "certified": job["certified"],
        "failed": job["failed"],
        "votes": job["votes"],
        "job_seconds": job["seconds"],
        "wrong_settled": wrong,
        "problems": list(verification.problems),
        "conditions": msgspec.to_builtins(conditions),
        "nodes": nodes,
    }
    rows = [
        (
            node["node"], node["peer"][-8:], "liar" if node["liar"] else "honest",
            node["agreed"], node["contradicted"], float(node["score"]), node["checks"],
        )
        for node in nodes
    ]  # fmt: skip
    headings = ("node", "peer", "is", "agreed", "contradicted", "score", "checks")
    return document, [
        "",
        f"{plan.name}: {plan.about}" if plan.about else plan.name,
        *outcome(job),
        f"{job['votes']} votes, {job['votes'] / job['units']:.2f} a unit; "
        f"{verification.audited} certificates rest on the publisher's own execution",
        "",
        *table(headings, rows),
        "",
        *(f"{'holds' if one.held else 'FAILS'}  {one.what}: {one.seen}" for one in conditions),
        "",
    ]


def _wrong_settled(plan: NetworkScenario, results: Path) -> list[int]:
    """The settled units whose answer is not onnxruntime's."""
    from p2pfleet.cli.plain_answers import right_answers, wrong_units
    from p2pfleet.reading_results import read_manifest
    from p2pfleet.results import CERTIFICATES, UnitLine

    comparison = read_manifest(results).manifest.comparison
    inputs = tuple(Path(path) for path in plan.job.inputs)
    wrong = wrong_units(
        results, right_answers(Path(plan.job.model), inputs, plan.job.split), comparison
    )
    with (results / CERTIFICATES).open("rb") as stream:
        lines = [msgspec.json.decode(line, type=UnitLine) for line in stream]
    settled = {line.unit for line in lines if line.state == "settled"}
    return [unit for unit in wrong if unit in settled]


def _nodes(
    plan: NetworkScenario, network: LocalNetwork, published: Published
) -> list[dict[str, Any]]:
    unheard = {"agreed": 0, "contradicted": 0, "score": score(Record()), "checks": {}}
    records = {record["peer"]: record for record in published.records}
    found = []
    for node in network.nodes:
        if node.publisher:
            continue
        record = records.get(node.peer, unheard)
        found.append(
            {
                "node": node.number,
                "peer": node.peer,
                "liar": node.liar,
                "agreed": record["agreed"],
                "contradicted": record["contradicted"],
                "score": record["score"],
                "checks": record["checks"].get(plan.job.model_class, 0),
            }
        )
    return found


def _conditions(
    plan: NetworkScenario,
    published: Published,
    verification: Verification,
    wrong: list[int],
    nodes: list[dict[str, Any]],
) -> list[Condition]:
    job, expect = published.job, plan.expect
    units = int(job["units"])
    most = expect.wrong_settled_max
    conditions = [
        Condition(
            "no wrong answer settled" if not most else f"at most {most} wrong answers settled",
            len(wrong) <= most,
            f"{len(wrong)} of {job['settled']} are not onnxruntime's"
            + (f" (units {', '.join(map(str, wrong[:5]))})" if wrong else ""),
        ),
        Condition(
            "every certificate and output holds",
            not verification.problems
            and verification.job == job["id"]
            and verification.settled == job["settled"],
            f"{verification.certified} recomputed, by {verification.voters} voters"
            + "".join(f"; {problem}" for problem in verification.problems[:3]),
        ),
        Condition(
            f"over within {expect.within_s:g} s",
            not published.late and float(job["seconds"]) <= expect.within_s,
            "it was not over" if published.late else f"{job['seconds']:.1f} s",
        ),
    ]
    if expect.all_settled:
        conditions.append(
            Condition("every unit settled", job["settled"] == units, f"{job['settled']} of {units}")
        )
    if expect.everyone:
        idle = [str(node["node"]) for node in nodes if not (node["liar"] or node["agreed"])]
        least = min(int(node["agreed"]) for node in nodes if not node["liar"])
        conditions.append(
            Condition(
                "every honest node took part",
                not idle,
                f"node {', '.join(idle)} did not" if idle else f"{least} answers of each or more",
            )
        )
    if expect.liars_below and plan.liars:
        best = max(float(node["score"]) for node in nodes if node["liar"])
        worst = min(float(node["score"]) for node in nodes if not node["liar"])
        conditions.append(
            Condition(
                "the liars end below every honest node",
                best < worst,
                f"best liar {best:.3f}, worst honest node {worst:.3f}",
            )
        )
    return conditions
