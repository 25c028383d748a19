"""``network``: make a network file, look at one, and ask something of its nodes."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import click
import msgspec

from p2pfleet.cli.folders import Place
from p2pfleet.cli.network_closed import invite, join, members, signer_of
from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.config.addresses import check_bootstrap, on_loopback
from p2pfleet.config.network_file import MAX_BOOTSTRAP, load_network, save_network
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import peer_text
from p2pfleet.core.model.network import (
    DEFAULT_VOTES_A_SUBNET,
    MAX_PUZZLE_BITS,
    MAX_VOTES_A_SUBNET,
    NetworkFile,
    NetworkParameters,
)
from p2pfleet.core.model.puzzle import DEFAULT_BITS, fits
from p2pfleet.core.model.swarm_key import (
    MAX_SWARM_KEY_FILE_BYTES,
    SWARM_KEY_BYTES,
    parse_swarm_key,
)

FILE = click.Path(path_type=Path, dir_okay=False)
owners_folder = click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="The owner's data folder (default: P2PFLEET_DATA_DIR, else the platform's).",
)  # fmt: skip


@click.group()
def network() -> None:
    """The file by which nodes find each other and know what they agree on."""


for command in (members, invite, join):
    network.add_command(command)


@network.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("file", type=FILE)
@click.option("--name", required=True, help="Small letters, digits, dots and dashes.")
@click.option("--testnet", is_flag=True, help="For trying things: nodes may be told to misbehave.")
@click.option(
    "--owned", is_flag=True,
    help="This folder's identity becomes the owner, who may sign requirements.",
)  # fmt: skip
@click.option(
    "--puzzle-bits", type=click.IntRange(0, MAX_PUZZLE_BITS), metavar="N",
    help="Work in every identity; one more doubles it, 0 asks for none"
    f" (default: {DEFAULT_BITS}, some seconds; with --testnet or --closed 0).",
)  # fmt: skip
@click.option(
    "--votes-a-subnet", type=click.IntRange(0, MAX_VOTES_A_SUBNET), metavar="N",
    help="Answers to one unit that count from one /24 (IPv4) or /48 (IPv6); 0 for any number"
    f" (default: {DEFAULT_VOTES_A_SUBNET}; with --testnet or --closed 0).",
)  # fmt: skip
@click.option(
    "--closed", is_flag=True,
    help="Only members take part, whom the owner lists or invites; implies --owned. Connections"
    " are encrypted with a new swarm key as well.",
)  # fmt: skip
@click.option(
    "--swarm-key", "swarm_key_file", type=FILE,
    help="With --closed: take the key in this file (libp2p's swarm.key) instead of a new one.",
)  # fmt: skip
@click.option("--bootstrap", multiple=True, metavar="ADDR", help="A node to start from.")
@owners_folder
@common
@click.pass_obj
def create(
    output: Output,
    file: Path,
    name: str,
    testnet: bool,
    owned: bool,
    puzzle_bits: int | None,
    votes_a_subnet: int | None,
    closed: bool,
    swarm_key_file: Path | None,
    bootstrap: tuple[str, ...],
    data_dir: Path | None,
) -> None:
    """Write a new network to FILE; hand it to everybody who is to take part."""
    if file.exists():
        raise P2pfleetError(
            f"{file} exists already.", "Choose another name, or remove it.", ExitCode.USAGE
        )
    if swarm_key_file is not None and not closed:
        raise P2pfleetError(
            "Only a closed network has a swarm key.", "Add --closed.", ExitCode.USAGE
        )
    swarm_key = None if swarm_key_file is None else _swarm_key(swarm_key_file)
    owner = signer_of(data_dir).peer if owned or closed else None
    if puzzle_bits is None:  # members of a closed network are known, and perhaps of one laboratory
        puzzle_bits = 0 if testnet or closed else DEFAULT_BITS
    if votes_a_subnet is None:
        votes_a_subnet = 0 if testnet or closed else DEFAULT_VOTES_A_SUBNET
    parameters = NetworkParameters(name, testnet, owner, puzzle_bits, votes_a_subnet, closed)
    if closed and swarm_key is None:
        swarm_key = secrets.token_bytes(SWARM_KEY_BYTES)
    found = NetworkFile(parameters, bootstrap, swarm_key=swarm_key)
    save_network(file, found)
    try:
        found = load_network(file)
    except P2pfleetError:
        file.unlink(missing_ok=True)
        raise
    if owner is not None and not fits(found.terms, owner):
        output.note(
            "The owner's key is older than the network and does not fit its puzzle. It signs "
            "requirements all the same; a node of this network needs another --data-dir."
        )
    _show(output, file, found)


@network.command(epilog=exit_codes())
@click.argument("file", type=FILE)
@common
@click.pass_obj
def show(output: Output, file: Path) -> None:
    """Show what the network in FILE agrees on, and check its owner's signature."""
    _show(output, file, load_network(file))


@network.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("file", type=FILE)
@click.option(
    "--onnxruntime", required=True, metavar="VERSION",
    help="Below this version a node runs no strangers' work.",
)  # fmt: skip
@owners_folder
@common
@click.pass_obj
def require(output: Output, file: Path, onnxruntime: str, data_dir: Path | None) -> None:
    """Ask something of every node of the network in FILE, signed by its owner.

    A node that starts with the new FILE tells all others, who tell each other.
    """
    from p2pfleet.runtime.requirements import with_requirement

    signer = signer_of(data_dir, existing=True)
    after = with_requirement(load_network(file), signer, onnxruntime, time.time_ns() // 10**6)
    save_network(file, after)
    _show(output, file, after)


@network.command(name="add-bootstrap", epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("file", type=FILE)
@click.argument("addresses", metavar="[ADDR]...", nargs=-1)
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="The data folder of the running node (default: P2PFLEET_DATA_DIR, else the platform's).",
)  # fmt: skip
@common
@click.pass_obj
def add_bootstrap(
    output: Output, file: Path, addresses: tuple[str, ...], data_dir: Path | None
) -> None:
    """Add addresses to start from to FILE: each ADDR, or those of the running node.

    Every node that others can reach serves as a start, without being told to. The network stays
    the same; hand the new FILE to whoever wants to join.
    """
    from p2pfleet.adapters.control.client import ControlClient

    found = load_network(file)
    if not addresses:
        folder = Place(data_dir, file).folder
        status = ControlClient(folder).call("status")
        if status["network"]["id"] != found.id.hex():
            raise P2pfleetError(
                f"The node of {folder} is on another network than that of {file}.",
                "Name the network file of that node, or another node with --data-dir.",
                ExitCode.USAGE,
            )
        addresses = tuple(one for one in status["addresses"] if check_bootstrap(one) is None)
        addresses = tuple(one for one in addresses if not on_loopback(one)) or addresses
        if not addresses:
            raise P2pfleetError(
                "That node listens nowhere that others could dial.",
                "Name its addresses: p2pfleet network add-bootstrap FILE ADDR",
            )
    wrong = [problem for one in addresses if (problem := check_bootstrap(one)) is not None]
    if wrong:
        raise P2pfleetError(wrong[0] + ".", "A node prints its addresses.", ExitCode.USAGE)
    together = tuple(dict.fromkeys((*addresses, *found.bootstrap)))[:MAX_BOOTSTRAP]
    after = msgspec.structs.replace(found, bootstrap=together)
    save_network(file, after)
    _show(output, file, after)


def _swarm_key(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return parse_swarm_key(stream.read(MAX_SWARM_KEY_FILE_BYTES).decode("utf-8"))
    except (OSError, UnicodeDecodeError, Malformed) as error:
        raise P2pfleetError(
            f"{file} holds no swarm key: {getattr(error, 'strerror', None) or error}.",
            "It has three lines: /key/swarm/psk/1.0.0/, /base16/, and 64 hexadecimal digits.",
            ExitCode.USAGE,
        ) from error


def _closed_text(found: NetworkFile) -> str:
    if not found.parameters.closed:
        return "no: anybody may take part"
    key = "with" if found.swarm_key is not None else "without"
    return f"yes, {key} a swarm key (p2pfleet network members list)"


def _show(output: Output, file: Path, found: NetworkFile) -> None:
    from p2pfleet.runtime.closed import listed
    from p2pfleet.runtime.requirements import opened_requirement

    asked = None if found.requirement is None else opened_requirement(found).requirement
    owner, bits = found.parameters.owner, found.parameters.puzzle_bits
    document = {
        "file": str(file.absolute()),
        "name": found.parameters.name,
        "id": found.id.hex(),
        "testnet": found.parameters.testnet,
        "owner": None if owner is None else peer_text(owner),
        "puzzle_bits": bits,
        "votes_a_subnet": found.parameters.votes_a_subnet,
        "bootstrap": list(found.bootstrap),
        "closed": found.parameters.closed,
        "swarm_key": found.swarm_key is not None,
        "members": len(listed(found)),
        "requirement": None
        if asked is None
        else {
            "onnxruntime": asked.onnxruntime,
            "sequence": asked.sequence,
            "issued_ms": asked.issued_ms,
        },
    }
    rows = {
        "network": f"{found.parameters.name} ({found.id.hex()[:8]})",
        "testnet": "yes" if found.parameters.testnet else "no",
        "owner": document["owner"] or "nobody",
        "puzzle": f"{bits} bits: {2**bits:,} tries an identity, on average" if bits else "none",
        "closed": _closed_text(found),
        "requires": "nothing" if asked is None else f"onnxruntime {asked.onnxruntime} or newer",
        "bootstrap": ", ".join(found.bootstrap) or "none",
        "file": document["file"],
    }
    output.result(document, [f"{key:<10}{value}" for key, value in rows.items()])
