"""``testnet``: a network of real node processes on this machine, for trying things."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.local_network import MAX_NODES, LocalNetwork, NodeRecord
from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, exit_codes, table
from p2pfleet.cli.processes import is_alive
from p2pfleet.cli.testnet_run import run
from p2pfleet.config.node_file import default_data_dir
from p2pfleet.core.errors import ExitCode, P2pfleetError

_directory = click.option(
    "--dir", "directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
    help="Where it lies (default: testnet/ in the default data folder).",
)  # fmt: skip


@click.group()
def testnet() -> None:
    """A network of real nodes on this machine, for trying things."""


testnet.add_command(run)


@testnet.command(epilog=exit_codes())
@click.option(
    "--nodes", type=click.IntRange(1, MAX_NODES), default=5, show_default=True,
    help="How many volunteers, liars included.",
)  # fmt: skip
@click.option(
    "--liars", type=click.IntRange(0, MAX_NODES), default=0, show_default=True,
    help="How many of them vote for wrong outputs.",
)  # fmt: skip
@click.option(
    "--slots", type=click.IntRange(1, 64), default=1, show_default=True,
    help="How many units each node runs at once.",
)  # fmt: skip
@_directory
@common
@click.pass_obj
def up(output: Output, nodes: int, liars: int, slots: int, directory: Path | None) -> None:
    """Start nodes in the background, on 127.0.0.1 only; they go on until 'testnet down'.

    Writes DIR/network.toml for 'submit --network'. A testnet that was stopped is continued.
    """
    if liars > nodes:
        raise P2pfleetError(
            f"{liars} liars among {nodes} nodes are too many.", "Lower --liars.", ExitCode.USAGE
        )
    network = LocalNetwork(_folder(directory), output.note)
    interruptions = Interruptions()
    with interruptions.raised():
        network.up(nodes, liars, interruptions, slots=slots)
    file = shlex.quote(str(network.network_file))
    output.result(
        _document(network, [node_row(network, node) for node in network.nodes]),
        [
            f"{nodes} nodes are up, {liars} of them lying",
            f"network   {network.network_file}",
            f"publish   p2pfleet submit MODEL.onnx INPUTS... --network {file} --output DIR",
            f"stop      p2pfleet testnet down --dir {shlex.quote(str(network.directory))}",
        ],
    )


@testnet.command(epilog=exit_codes(ExitCode.NO_NODE, ExitCode.DAMAGED))
@_directory
@common
@click.pass_obj
def status(output: Output, directory: Path | None) -> int:
    """List the nodes; exit code 4 unless all of them run and answer."""
    network = LocalNetwork(_folder(directory), output.note)
    rows = [node_row(network, node) for node in network.nodes]
    if not rows:
        raise P2pfleetError(
            f"there is no testnet in {network.directory}.",
            f"Start one: p2pfleet testnet up --dir {shlex.quote(str(network.directory))}",
            ExitCode.NO_NODE,
        )
    headings = ("node", "alive", "answers", "peers", "executed", "liar", "process", "peer")
    cells = [
        (
            row["node"], row["alive"], row["answers"], row["peers"], row["executed"], row["liar"],
            row["pid"], row["peer"],
        )
        for row in rows
    ]  # fmt: skip
    output.result(_document(network, rows), table(headings, cells))
    return ExitCode.OK if all(row["answers"] for row in rows) else ExitCode.NO_NODE


@testnet.command(epilog=exit_codes(ExitCode.DAMAGED))
@_directory
@common
@click.pass_obj
def down(output: Output, directory: Path | None) -> None:
    """Stop all nodes. Their folders stay; 'testnet up' continues them.

    Ends as well what a killed 'testnet run' has left in hosts of its own, if it has.
    """
    from p2pfleet.cli.internet import sweep

    network = LocalNetwork(_folder(directory), output.note)
    interruptions = Interruptions()
    with interruptions.raised():
        stopped = network.down(interruptions)
    swept = sweep()
    lines = [f"{stopped} nodes stopped" if stopped else "no node was running"]
    if swept:
        lines.append(f"{swept} processes ended that a killed scenario had left")
    output.result({"directory": str(network.directory), "stopped": stopped, "swept": swept}, lines)


@testnet.command(hidden=True)
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--network", type=click.Path(path_type=Path), required=True)
@click.option("--listen", required=True)
@click.option("--slots", type=int, default=1)
@click.option("--role", "roles", multiple=True)
@click.option("--liar", is_flag=True)
@click.option("--while-stdin", is_flag=True)
@common
@click.pass_obj
def node(
    output: Output,
    data_dir: Path,
    network: Path,
    listen: str,
    slots: int,
    roles: tuple[str, ...],
    liar: bool,
    while_stdin: bool,
) -> None:
    """One node of a testnet; the only way to have one that lies."""
    from p2pfleet.cli.folders import join_network
    from p2pfleet.cli.run import run_node
    from p2pfleet.config.node_file import load_config

    config = load_config(
        None,
        data_dir=data_dir,
        network=network,
        listen=(listen,),
        roles=roles or ("volunteer",),
        slots=slots,
    )
    if not config.network.parameters.testnet:
        raise P2pfleetError(
            f"{network} is no testnet.", "Run a node with: p2pfleet run", ExitCode.USAGE
        )
    join_network(config.data_dir, config.network)
    run_node(output, config, liar=liar, while_stdin=while_stdin)


def node_row(network: LocalNetwork, record: NodeRecord) -> dict[str, Any]:
    """One node as JSON has it: what is written down, and what it answers now."""
    alive = record.process is not None and is_alive(record.process)
    answer = network.ask(record.number, "status") if alive else None
    return {
        "node": record.number,
        "alive": alive,
        "answers": answer is not None,
        "peers": answer["peers"] if answer else None,
        "executed": answer["executed"] if answer else None,
        "liar": record.liar,
        "pid": record.process.pid if record.process is not None and alive else None,
        "peer": record.peer,
        "address": record.address,
        "data_dir": str(network.folder(record.number)),
        "log": str(network.log(record.number)),
    }


def _document(network: LocalNetwork, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "directory": str(network.directory),
        "network": str(network.network_file),
        "nodes": rows,
    }


def _folder(directory: Path | None) -> Path:
    return directory if directory is not None else default_data_dir() / "testnet"
