"""``run``: a node in the foreground."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from p2pfleet.cli.folders import Place, join_network, profile_file
from p2pfleet.cli.identity_making import make_identity
from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.logs import log_to_stderr
from p2pfleet.cli.options import common, located
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.config.network_file import NETWORK_FILE
from p2pfleet.config.node_file import NodeConfig, load_config
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import peer_text

if TYPE_CHECKING:
    from p2pfleet.app import RunningNode


@click.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.option(
    "--profile", metavar="FILE",
    help="The configuration, or the name of a profile (default: node.toml of the data folder).",
)  # fmt: skip
@click.option("--listen", metavar="ADDR", multiple=True, help="Listen on ADDR; may be repeated.")
@click.option(
    "--bootstrap", metavar="ADDR", multiple=True,
    help="Another address to start looking for the network; may be repeated.",
)  # fmt: skip
@click.option("--slots", type=click.IntRange(0, 1024), help="How many units to run at once.")
@located
@common
@click.pass_obj
def run(
    output: Output,
    place: Place,
    profile: str | None,
    listen: tuple[str, ...],
    bootstrap: tuple[str, ...],
    slots: int | None,
) -> None:
    """Run a node until SIGINT or SIGTERM.

    Its addresses stand on standard error, and with --json in a document on standard output as soon
    as it is ready. Killing it loses nothing: it goes on where it stood.
    """
    config = load_config(
        profile_file(profile) if profile else None,
        data_dir=place.folder,
        network=place.network,
        listen=listen,
        bootstrap=bootstrap,
        slots=slots,
    )
    if place.network is not None or not (config.data_dir / NETWORK_FILE).exists():
        join_network(config.data_dir, config.network)
    run_node(output, config)


def run_node(
    output: Output,
    config: NodeConfig,
    *,
    liar: bool = False,
    while_stdin: bool = False,
) -> None:
    """Run a node until a signal, or with ``while_stdin`` until standard input ends."""
    import trio

    from p2pfleet.cli.embedded import with_node

    log_to_stderr("debug" if output.debug else config.log_level)

    async def serve(node: RunningNode) -> None:
        _announce(output, config, node)
        await trio.sleep_forever()

    async def stdin_ended() -> None:
        # Whoever started us holds the other end; it closes even if that process is killed.
        while await trio.to_thread.run_sync(os.read, 0, 1, abandon_on_cancel=True):
            pass

    torn = False
    try:
        with Interruptions().raised():
            make_identity(output, config.data_dir, config.network)
            torn = with_node(
                config,
                serve,
                liar=liar,
                stop_note=lambda: output.note("stopping (again: at once)"),
                until=stdin_ended if while_stdin else None,
            ).torn
    except KeyboardInterrupt:
        pass  # it came before there was anything to stop
    if torn:
        raise P2pfleetError(
            "the node did not close in time and was left where it stood.",
            "Nothing is lost; if it happens again, please report it with the end of its log.",
        )
    output.note("stopped")


def _announce(output: Output, config: NodeConfig, node: RunningNode) -> None:
    peer = peer_text(node.peer)
    output.note(f"node {peer} of network {config.network.parameters.name}: {_roles(config)}")
    for address in node.addresses:
        output.note(f"listening on {address}")
    output.note(f"status: p2pfleet status --data-dir {shlex.quote(str(config.data_dir))}")
    if output.as_json:
        document = {
            "peer": peer,
            "addresses": list(node.addresses),
            "data_dir": str(config.data_dir),
            "network": {"name": config.network.parameters.name, "id": config.network.id.hex()},
            "roles": list(config.roles),
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()


def _roles(config: NodeConfig) -> str:
    roles: Sequence[str] = config.roles
    slots = f", {config.slots} units at once" if config.slots else ""
    return ", ".join(roles) + slots
