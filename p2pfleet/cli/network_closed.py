"""``network members``, ``network invite`` and ``network join``: who belongs to a closed network."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pfleet.cli.folders import join_network, remembered_network
from p2pfleet.cli.identity_making import make_identity
from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, duration, exit_codes
from p2pfleet.config.network_file import NETWORK_FILE, load_network, save_network
from p2pfleet.config.node_file import default_data_dir
from p2pfleet.config.toml_file import MAX_FILE_BYTES, write_file
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import PeerId, parse_peer, peer_text
from p2pfleet.core.model.network import NetworkFile

if TYPE_CHECKING:
    from p2pfleet.core.wire.messages import MemberEntry
    from p2pfleet.runtime.signing import Signer

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
_RELOADED = "the running node of this folder tells the others now"
_TELL = "a node that starts with this file tells the others"


def signer_of(data_dir: Path | None, existing: bool = False) -> Signer:
    """The key of a data folder; unless it has to exist, it is made if there is none yet."""
    from p2pfleet.adapters.store import load_or_create_identity
    from p2pfleet.runtime.signing import Signer

    file = folder_of(data_dir) / "identity.key"
    if existing and not os.path.lexists(file):
        raise P2pfleetError(
            f"There is no identity in {file.parent}.",
            "Name the data folder of the network's owner with --data-dir.",
            ExitCode.USAGE,
        )
    return Signer(load_or_create_identity(file))


def folder_of(data_dir: Path | None) -> Path:
    """The data folder that an option means."""
    return (data_dir or default_data_dir()).expanduser().absolute()


_owner = click.option(
    "--data-dir", type=FOLDER, metavar="DIR",
    help="The owner's data folder (default: P2PFLEET_DATA_DIR, else the platform's).",
)  # fmt: skip


# ---- members ---------------------------------------------------------------------------------


@click.group()
def members() -> None:
    """The list of a closed network's members, signed by its owner."""


@members.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("file", type=FILE)
@click.argument("peer", nargs=-1, required=True)
@click.option("--name", default="", help="What to call it, for people; one peer only.")
@_owner
@common
@click.pass_obj
def add(
    output: Output, file: Path, peer: tuple[str, ...], name: str, data_dir: Path | None
) -> None:
    """Make each PEER a member of the network in FILE."""
    if name and len(peer) > 1:
        raise P2pfleetError(
            "One name cannot be that of several peers.", "Add them one by one.", ExitCode.USAGE
        )
    _change(output, file, data_dir, lambda _, entries: [_entry(one, name) for one in peer])


@members.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("file", type=FILE)
@click.argument("who", nargs=-1, required=True)
@_owner
@common
@click.pass_obj
def remove(output: Output, file: Path, who: tuple[str, ...], data_dir: Path | None) -> None:
    """Remove each WHO (a peer, its name in the list, or an invitation's key) from the network.

    Whoever is removed is disconnected as soon as the others hear of it. An invitation that is
    removed admits nobody, those whom it had admitted included.
    """

    def removed(owner: PeerId, entries: dict[PeerId, MemberEntry]) -> list[MemberEntry]:
        import msgspec

        found = []
        for text in who:
            named = [one for one in entries.values() if one.name == text and one.admitted]
            if len(named) > 1:
                raise P2pfleetError(
                    f"{len(named)} members are called {text!r:.60}.",
                    "Name the one that is meant by its peer id: p2pfleet network members list",
                    ExitCode.USAGE,
                )
            entry = named[0] if named else _entry(text, "")
            if entry.peer == owner:
                raise P2pfleetError(
                    "The owner of a network always belongs to it.",
                    "Who has the owner's key can sign whatever it likes; there is no way around.",
                    ExitCode.USAGE,
                )
            known = entries.get(entry.peer, entry)
            found.append(msgspec.structs.replace(known, admitted=False))
        return found

    _change(output, file, data_dir, removed)


@members.command("list", epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("file", type=FILE, required=False)
@click.option(
    "--data-dir", type=FOLDER, metavar="DIR",
    help="A data folder whose running node is asked, which also knows who was invited.",
)  # fmt: skip
@common
@click.pass_obj
def list_(output: Output, file: Path | None, data_dir: Path | None) -> None:
    """List the members of the network in FILE, or those that a running node knows of."""
    from p2pfleet.runtime.closed import listed, member_rows

    if file is None:
        from p2pfleet.adapters.control.client import ControlClient

        rows = ControlClient(folder_of(data_dir)).call("members")
    else:
        found = load_network(file)
        rows = [{**row, "how": "listed"} for row in member_rows(listed(found).values())]
        if found.parameters.owner is not None:
            owner = peer_text(found.parameters.owner)
            rows.insert(0, {"peer": owner, "name": "", "admitted": True, "how": "owner"})
    _show_rows(output, rows)


def _entry(text: str, name: str) -> MemberEntry:
    from p2pfleet.core.wire.codec import decode, encode
    from p2pfleet.core.wire.messages import MemberEntry

    try:
        entry: MemberEntry = decode(
            encode(MemberEntry(parse_peer(text), name, True)), MemberEntry, 1024
        )
        return entry
    except Malformed as error:
        raise P2pfleetError(
            f"{text!r:.80} cannot be listed: {error}.",
            "Give a peer id (p2pfleet status prints it), and a name of at most 40 characters.",
            ExitCode.USAGE,
        ) from error


def _change(
    output: Output,
    file: Path,
    data_dir: Path | None,
    change: Callable[[PeerId, dict[PeerId, MemberEntry]], Sequence[MemberEntry]],
) -> None:
    from p2pfleet.runtime.closed import check_owner, listed, member_rows, merged_pages, with_entries

    signer = signer_of(data_dir, existing=True)
    found = load_network(file)
    check_owner(found, signer)
    known = remembered_network(folder_of(data_dir))
    if known is not None and known.id == found.id:  # FILE may be an older copy
        found = merged_pages(known, found)
    changes = change(signer.peer, listed(found))
    after = with_entries(found, signer, changes, time.time_ns() // 10**6)
    save_network(file, after)
    told = _hand_over(folder_of(data_dir), after)
    output.note(_RELOADED if told else _TELL)
    rows = [{**row, "how": "listed"} for row in member_rows(listed(after).values())]
    _show_rows(output, rows, changed=member_rows(changes), told=told)


def _hand_over(folder: Path, network: NetworkFile) -> bool:
    """Keep the list in the owner's own data folder, too; whether a running node took it in."""
    from p2pfleet.adapters.control.client import ControlClient

    known = remembered_network(folder)
    if known is None or known.id != network.id:
        return False
    join_network(folder, network)
    client = ControlClient(folder)
    if not client.alive():
        return False
    client.call("reload_network")
    return True


def _show_rows(output: Output, rows: list[dict[str, Any]], **more: Any) -> None:
    lines = [
        f"{row['peer']}  {row['how'] if row['admitted'] else 'removed':<8}  {row['name']}".rstrip()
        for row in rows
    ]
    output.result({"members": rows, **more}, lines or ["nobody but the owner"])


# ---- invitations -----------------------------------------------------------------------------


@click.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("file", type=FILE)
@click.option("--name", default="", help="What to call the new member, for people.")
@click.option(
    "--hours", type=click.FloatRange(0, 720, min_open=True), default=24, show_default=True,
    help="How long it may be used.",
)  # fmt: skip
@click.option(
    "--uses", type=click.IntRange(1, 256), default=1, show_default=True,
    help="How many machines may join by it.",
)  # fmt: skip
@click.option("--output", "target", type=FILE, help="Write it to this file (0600).")
@_owner
@common
@click.pass_obj
def invite(
    output: Output,
    file: Path,
    name: str,
    hours: float,
    uses: int,
    target: Path | None,
    data_dir: Path | None,
) -> None:
    """Make an invitation to the closed network in FILE: whoever has its text can join.

    Hand it over as you would a password. The new machine takes it with `p2pfleet network join`.
    """
    from p2pfleet.runtime.closed import write_invitation

    signer = signer_of(data_dir, existing=True)
    found = load_network(file)
    if not found.bootstrap:
        output.note(
            f"The network has no bootstrap address, so the new machine will not find it: add one "
            f"to {file} first, or let it join with --bootstrap."
        )
    body, text = write_invitation(
        found,
        signer,
        secrets.token_bytes(32),
        name=name,
        uses=uses,
        life_ms=round(hours * 3_600_000),
        now_ms=time.time_ns() // 10**6,
    )
    document = {
        "invitation": None if target else text,
        "file": str(target.absolute()) if target else None,
        "key": peer_text(body.key),
        "name": name,
        "uses": uses,
        "expires_ms": body.expires_ms,
    }
    if target is not None:
        write_file(target, text + "\n")
    often = "once" if uses == 1 else f"{uses} times"
    output.note(
        f"good {often} within {duration(hours * 3600)}; to withdraw it: "
        f"p2pfleet network members remove {file} {peer_text(body.key)}"
    )
    output.result(document, [text if target is None else str(target.absolute())])


@click.command(epilog=exit_codes(ExitCode.DAMAGED))
@click.argument("invitation")
@click.option("--data-dir", type=FOLDER, metavar="DIR", help="The new node's data folder.")
@click.option("--bootstrap", multiple=True, metavar="ADDR", help="A node to start from.")
@common
@click.pass_obj
def join(
    output: Output, invitation: str, data_dir: Path | None, bootstrap: tuple[str, ...]
) -> None:
    """Join the closed network of INVITATION: its text, or a file that holds it ("-": stdin).

    Makes this folder's identity if there is none. The first member that the node meets lets it in.
    """
    import msgspec

    from p2pfleet.adapters.store import peer_of
    from p2pfleet.runtime.closed import read_invitation, use_invitation

    opened = read_invitation(_text_of(invitation))
    if opened.invitation.expires_ms < time.time_ns() // 10**6:
        raise P2pfleetError(
            "The invitation has expired.", "Ask the network's owner for another.", ExitCode.USAGE
        )
    network = msgspec.structs.replace(
        opened.network, bootstrap=tuple(dict.fromkeys((*opened.network.bootstrap, *bootstrap)))
    )
    folder = folder_of(data_dir)
    join_network(folder, network)
    load_network(folder / NETWORK_FILE)  # what the invitation brought may hold mistakes
    peer = peer_of(make_identity(output, folder, network))
    _keep_admission(folder, use_invitation(opened, peer))
    parameters = network.parameters
    output.result(
        {
            "peer": peer_text(peer),
            "network": {"name": parameters.name, "id": network.id.hex()},
            "data_dir": str(folder),
            "name": opened.invitation.name,
            "expires_ms": opened.invitation.expires_ms,
        },
        [
            f"peer id   {peer_text(peer)}",
            f"network   {parameters.name} ({network.id.hex()[:8]})",
            f"folder    {folder}",
            f"next      p2pfleet run --data-dir {folder}",
        ],
    )


def _text_of(invitation: str) -> str:
    """The text itself, or what a file of that name holds."""
    if invitation.startswith("p2pfleet-invitation-"):
        return invitation
    try:
        with click.open_file(invitation, "rb") as stream:
            data: bytes = stream.read(MAX_FILE_BYTES + 1)
            return data.decode("utf-8", "replace")
    except OSError as error:
        raise P2pfleetError(
            f"{invitation!r:.80} is neither an invitation nor a file that can be read: "
            f"{error.strerror or error}.",
            "Give the text that `p2pfleet network invite` printed, or the name of its file.",
            ExitCode.USAGE,
        ) from error


def _keep_admission(folder: Path, sealed: Any) -> None:
    """What the node shows wherever it comes to, until it is a member. Holds no secret."""
    from p2pfleet.adapters.store.durable_file import replace_file
    from p2pfleet.core.wire.codec import encode
    from p2pfleet.runtime.closed import ADMISSION_FILE

    replace_file(folder / ADMISSION_FILE, encode(sealed))
