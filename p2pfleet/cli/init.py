"""``init``: a data folder, an identity, and a configuration to start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from p2pfleet.cli.folders import (
    DEFAULT_NETWORK,
    PROFILES,
    Place,
    join_network,
    remembered_network,
    set_up,
)
from p2pfleet.cli.identity_making import make_identity
from p2pfleet.cli.options import common, located
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.config.network_file import load_network
from p2pfleet.config.node_file import NODE_FILE, default_data_dir
from p2pfleet.core.errors import ExitCode
from p2pfleet.core.model.ids import peer_text


@click.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.option(
    "--profile", type=click.Choice(PROFILES), default="volunteer", show_default=True,
    help="What kind of node this will be.",
)  # fmt: skip
@located
@common
@click.pass_obj
def init(output: Output, place: Place, profile: str) -> None:
    """Set up a data folder: identity, network and configuration.

    With --network the folder belongs to that network. The identity is made once and never
    replaced; back it up.
    """
    from p2pfleet.adapters.store import peer_of

    # Here --network says what the folder is to become, not which of several is meant.
    folder = replace(place, network=None).folder if place.data_dir else default_data_dir()
    given = load_network(place.network) if place.network else None
    network = given or remembered_network(folder) or DEFAULT_NETWORK
    if not (folder / NODE_FILE).exists():
        # Before the configuration: an init that was interrupted meanwhile can be begun again.
        join_network(folder, network)
        make_identity(output, folder, network)
    set_up(folder, profile, network)
    peer = peer_text(peer_of(make_identity(output, folder, network)))
    go_on = next_command(profile, place.data_dir)
    lines = [
        f"peer id   {peer}",
        f"profile   {profile}",
        f"network   {network.parameters.name} ({network.id.hex()[:8]})",
        f"folder    {folder}",
        f"next      {go_on}",
    ]
    if not network.bootstrap and profile != "bootstrap":
        output.note(
            f"The network has no bootstrap address yet: add one to {folder / 'network.toml'}, or "
            "give one with --bootstrap. Without any, only nodes that know yours will find it."
        )
    output.result(
        {
            "peer": peer,
            "profile": profile,
            "network": {"name": network.parameters.name, "id": network.id.hex()},
            "data_dir": str(folder),
            "config": str(folder / NODE_FILE),
            "next": go_on,
        },
        lines,
    )


def next_command(profile: str, data_dir: Path | None) -> str:
    """What to type after ``init``; a publisher needs no running node."""
    where = f" --data-dir {data_dir}" if data_dir else ""
    if profile == "publisher":
        return f"p2pfleet submit MODEL.onnx INPUTS...{where}"
    return f"p2pfleet run{where}"
