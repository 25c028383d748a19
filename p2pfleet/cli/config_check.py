"""``config check``: every mistake in a configuration, or what it comes to."""

from __future__ import annotations

import click
import msgspec

from p2pfleet.cli.folders import Place, profile_file
from p2pfleet.cli.options import common, located
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.config.node_file import NodeConfig, load_config
from p2pfleet.core.model.ids import peer_text


@click.group()
def config() -> None:
    """The configuration of a node."""


@config.command(epilog=exit_codes())
@click.option("--profile", metavar="FILE", help="Check this file instead of the folder's.")
@located
@common
@click.pass_obj
def check(output: Output, place: Place, profile: str | None) -> None:
    """Check node.toml and network.toml; show what they come to, defaults included."""
    file = profile_file(profile) if profile else None
    found = load_config(file, data_dir=place.folder, network=place.network)
    document = config_document(found)
    name = found.network.parameters.name
    flat = {
        **document,
        "network": f"{name} ({found.network.id.hex()[:8]})",
        "puzzle_bits": found.network.parameters.puzzle_bits,
    }
    output.result(
        {"ok": True, "config": document},
        [f"{key:<20}{_text(value)}" for key, value in flat.items()],
    )


def config_document(found: NodeConfig) -> dict[str, object]:
    """A configuration as JSON has it."""
    document: dict[str, object] = msgspec.structs.asdict(found)
    document["data_dir"] = str(found.data_dir)
    document["trusted_publishers"] = tuple(map(peer_text, found.trusted_publishers))
    from p2pfleet.runtime.closed import opened_pages

    parameters, requirement = found.network.parameters, found.network.requirement
    if requirement is not None:
        from p2pfleet.runtime.requirements import opened_requirement

        opened_requirement(found.network)  # an owner's word that is not his own is a mistake
    opened_pages(found.network)
    document["network"] = {
        "name": parameters.name,
        "testnet": parameters.testnet,
        "id": found.network.id.hex(),
        "owner": None if parameters.owner is None else peer_text(parameters.owner),
        "puzzle_bits": parameters.puzzle_bits,
        "votes_a_subnet": parameters.votes_a_subnet,
        "closed": parameters.closed,
        "onnxruntime_min": None if requirement is None else requirement.onnxruntime,
    }
    return document


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
