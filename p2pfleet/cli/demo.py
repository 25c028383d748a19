"""``demo``: the main job, end to end, on a local network of real processes with a liar in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pfleet.cli.folders import join_network
from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.local_network import MAX_NODES, LocalNetwork
from p2pfleet.cli.local_publication import publish_here, temporary_folder
from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, exit_codes, table
from p2pfleet.cli.waiting import outcome, succeeded
from p2pfleet.config.network_file import load_network
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.resources import resource_path

if TYPE_CHECKING:
    from p2pfleet.cli.demo_answers import Comparison
    from p2pfleet.verify import Verification

UNIT_IMAGES = 50
QUORUM = 2


@click.command(epilog=exit_codes(ExitCode.NO_PEERS))
@click.option(
    "--nodes", type=click.IntRange(3, MAX_NODES), default=5, show_default=True,
    help="How many volunteers, liars included.",
)  # fmt: skip
@click.option(
    "--liars", type=click.IntRange(0, MAX_NODES), default=1, show_default=True,
    help="How many of them vote for wrong outputs.",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", type=click.IntRange(10, 86400), default=600, show_default=True,
    help="Give up after so many seconds.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the folder with logs and results.")
@common
@click.pass_obj
def demo(output: Output, nodes: int, liars: int, timeout_s: int, keep: bool) -> int:
    """See it work: volunteers, one of them a liar, read 1797 handwritten digits.

    Starts a network on 127.0.0.1, publishes the job, waits for certified results, checks them, and
    stops everything again. Exit code 0 only if everything held.
    """
    if nodes - liars < QUORUM:
        raise P2pfleetError(
            f"{nodes} nodes with {liars} liars have fewer than {QUORUM} honest ones.",
            "Lower --liars or raise --nodes.",
            ExitCode.USAGE,
        )
    begin = time.monotonic()
    interruptions = Interruptions()
    with interruptions.raised(), temporary_folder(output, interruptions, "demo", keep) as folder:
        network = LocalNetwork(folder / "network", output.note)
        try:
            output.note(f"starting {nodes} volunteers, {liars} of them told to lie")
            network.up(nodes, liars, interruptions, while_we_live=True)
            job, reputation = _publish(output, network, folder, begin + timeout_s)
        finally:
            network.down(interruptions)
        document, lines = _judge(network, folder, job, reputation)
    document["seconds"] = round(time.monotonic() - begin, 1)
    document["directory"] = str(folder) if keep else None
    lines.append(f"{document['seconds']} s in all; every process of it is gone")
    output.result(document, lines)
    return ExitCode.OK if document["ok"] else ExitCode.FAILED


def _publish(
    output: Output, network: LocalNetwork, folder: Path, deadline: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Publish the digits from a node in this process; the finished job and the records of peers."""
    from p2pfleet.submission import SubmitRequest

    data_dir = folder / "publisher"
    join_network(data_dir, load_network(network.network_file))
    digits = resource_path("testnet", "jobs", "digits")
    published = publish_here(
        output,
        network,
        data_dir,
        folder / "results",
        SubmitRequest(
            model=str(digits / "digits.onnx"),
            inputs=(str(digits / "digits.npz"),),
            name="digits",
            quorum=QUORUM,
            split=f"0:{UNIT_IMAGES}",
        ),
        until=lambda: deadline,
        go_on="The demo stops here; run it with --keep for logs.",
    )
    if published.late:
        raise P2pfleetError(
            "the demo did not finish in time.",
            "This machine may be too busy: try --timeout 1800, and --keep to see the logs.",
        )
    return published.job, published.records


def _judge(
    network: LocalNetwork,
    folder: Path,
    job: dict[str, Any],
    reputation: list[dict[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """What the demo showed: as a document, and for people."""
    from p2pfleet.cli.demo_answers import compare
    from p2pfleet.verify import verify_results

    results = folder / "results"
    verification = verify_results(results)
    comparison = compare(results, resource_path("testnet", "jobs", "digits"), UNIT_IMAGES)
    records = {record["peer"]: record for record in reputation}
    nodes = []
    for node in network.nodes:
        record = records.get(node.peer, {"agreed": 0, "contradicted": 0, "score": 0.0})
        nodes.append(
            {
                "peer": node.peer,
                "credit": record["agreed"],
                "contradicted": record["contradicted"],
                "score": record["score"],
                "liar": node.liar,
            }
        )
    outvoted = sum(node["contradicted"] for node in nodes if node["liar"])
    verified = (
        not verification.problems
        and verification.job == job["id"]
        and verification.settled == job["units"]
    )
    document = {
        "ok": succeeded(job) and verified and comparison.equal,
        "job": job["id"],
        "state": job["state"],
        "units": job["units"],
        "images": comparison.images,
        "certified": int(job["certified"]) + int(job["settled"]),
        "settled": job["settled"],
        "failed": job["failed"],
        "accuracy": comparison.accuracy,
        "equal_to_onnxruntime": comparison.equal,
        "verified": verified,
        "problems": list(verification.problems),
        "job_seconds": job["seconds"],
        "liars_outvoted": outvoted,
        "nodes": nodes,
    }
    return document, _summary(document, verification, comparison, job)


def _summary(
    document: dict[str, Any],
    verification: Verification,
    comparison: Comparison,
    job: dict[str, Any],
) -> list[str]:
    same = "the same, byte for byte" if comparison.equal else "DIFFERENT"
    check = (
        f"all hold ({verification.voters} voters)"
        if document["verified"]
        else f"DO NOT HOLD: {'; '.join(document['problems'][:3]) or 'some are missing'}"
    )
    liars = sum(node["liar"] for node in document["nodes"])
    if liars and document["liars_outvoted"]:
        lie = f"outvoted on {document['liars_outvoted']} units; none of their answers counted"
    else:
        lie = "none of them was heard" if liars else "there were none"
    lines = [
        "",
        f"units         {outcome(job)[0]}, in {job['seconds']:.1f} s",
        *(f"              {line}" for line in outcome(job)[1:]),
        f"images        {comparison.images}, {comparison.accuracy:.2%} read as labelled",
        f"onnxruntime   {same}",
        f"certificates  {check}",
        f"liars         {lie}",
        "",
    ]
    rows = [
        (
            node["peer"][-8:], node["credit"], node["contradicted"], float(node["score"]),
            "told to lie" if node["liar"] else "honest",
        )
        for node in document["nodes"]
    ]  # fmt: skip
    return [*lines, *table(("node", "credit", "contradicted", "score", "is"), rows), ""]
