"""Commands that ask a running node something, or tell it something."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from p2pfleet.cli.folders import Place
from p2pfleet.cli.options import common, located, parse_duration
from p2pfleet.cli.output import Output, duration, exit_codes, table
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError

if TYPE_CHECKING:
    from p2pfleet.adapters.control.client import ControlClient

_TALKS = exit_codes(ExitCode.NO_NODE)


def client_of(place: Place) -> ControlClient:
    """A client of the node that runs in the folder meant."""
    from p2pfleet.adapters.control.client import ControlClient

    return ControlClient(place.folder)


@click.command(epilog=_TALKS)
@located
@common
@click.pass_obj
def status(output: Output, place: Place) -> None:
    """Show what the running node does, and why if it does nothing."""
    found: dict[str, Any] = client_of(place).call("status")
    if found["paused"]:
        state = found["reason"] or "paused"
        if found.get("resumes_ms") is not None:
            state += f", resumes in {duration(found['resumes_ms'] / 1000)}"
    else:
        state = f"idle: {found['reason']}" if found["reason"] else "computing"
    jobs = ", ".join(f"{count} {name}" for name, count in sorted(found["jobs"].items())) or "none"
    network = found["network"]
    rows = {
        "node": found["peer"],
        "network": f"{network['name']} ({network['id'][:8]})",
        "state": state,
        "roles": ", ".join(found["roles"]),
        "slots": found["slots"],
        "peers": found["peers"],
        "jobs": jobs,
        "executed": f"{found['executed']} units since the start",
        "sandbox": sandbox_text(found["sandbox"]),
        "limits": limits_text(found["limits"]),
        "up": duration(found["uptime_s"]),
        "memory": f"{found['memory_mb']} MB",
        "version": found["version"],
        "folder": found["data_dir"],
        "process": found["pid"],
    }
    lines = [f"{key:<10}{value}" for key, value in rows.items()]
    if found.get("upgrade"):
        lines.insert(2, f"{'upgrade':<10}{found['upgrade']}")
    if network.get("outside"):
        lines.insert(2, f"{'member':<10}no: {network['outside']}")
    if found.get("clock", {}).get("warning"):
        lines.insert(2, f"{'clock':<10}{found['clock']['warning']}")
    lines += [f"{'address':<10}{address}" for address in found["addresses"]]
    output.result(found, lines)


def limits_text(limits: dict[str, Any]) -> str:
    """What the owner grants."""
    disk = f"{limits['disk_mb']} MiB of disk"
    if "disk_used_mb" in limits:
        disk += f" ({limits['disk_used_mb']:g} used)"
    if "custody_mb" in limits:
        disk += (
            f", {limits['custody_mb']} MiB of that for others ({limits['custody_used_mb']:g} used)"
        )
    return (
        f"{limits['threads']} threads, {limits['cpu_percent']} % of the time, "
        f"{limits['memory_mb']} MiB and {limits['unit_cpu_s']} s a unit, {disk}"
    )


def sandbox_text(sandbox: dict[str, Any]) -> str:
    """The grade, why it is not better, and what this machine computes like."""
    text = f"grade {sandbox['grade']}"
    if sandbox["numeric_class"]:
        text += f", numeric class {sandbox['numeric_class'][:8]}"
    text += f", onnxruntime {sandbox['onnxruntime']}"
    return " ".join(part for part in (text, sandbox["reason"], sandbox["advice"]) if part)


@click.command(epilog=_TALKS)
@click.option(
    "--for", "for_ms", type=parse_duration, metavar="TIME", help="Resume by itself: 2h, 90m."
)
@located
@common
@click.pass_obj
def pause(output: Output, place: Place, for_ms: int | None) -> None:
    """Stop computing at once; the node stays on the network."""
    client_of(place).call("pause", for_ms=for_ms)
    until = f"for {duration(for_ms / 1000)}" if for_ms else "until 'p2pfleet resume'"
    output.result({"paused": True, "for_ms": for_ms}, [f"paused {until}"])


@click.command(epilog=_TALKS)
@located
@common
@click.pass_obj
def resume(output: Output, place: Place) -> None:
    """Go on computing."""
    client_of(place).call("resume")
    output.result({"paused": False}, ["computing again"])


def _banned(output: Output, place: Place) -> None:
    found: list[dict[str, Any]] = client_of(place).call("bans")
    rows = [
        (
            ban["peer"] or ban["address"],
            time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ban["until_ms"] / 1000)),
            ban["times"], ban["reason"],
        )
        for ban in found
    ]  # fmt: skip
    headings = ("banned", "until", "times", "reason")
    output.result(found, table(headings, rows) if rows else ["nobody is banned"])


@click.command(epilog=_TALKS)
@click.option("--banned", is_flag=True, help="List whom the node refuses, why, and until when.")
@click.option(
    "--unban", metavar="PEER", help="Lift the ban of a peer, or of an address ('--banned' has it)."
)
@located
@common
@click.pass_obj
def peers(output: Output, place: Place, banned: bool, unban: str | None) -> None:
    """List the peers that the node is connected to, or those that it refuses.

    A peer is refused after it sent too much that was wrong: for 10 minutes, and longer each time.
    """
    if unban is not None:
        if banned:
            raise click.UsageError("--banned and --unban are two questions.")
        client_of(place).call("unban", who=unban)
        output.result({"unbanned": unban}, [f"{unban} may come again"])
        return
    if banned:
        _banned(output, place)
        return
    found: list[dict[str, Any]] = client_of(place).call("peers")
    rows = [
        (
            peer["peer"], ", ".join(peer["roles"]), peer["slots"], peer["agreed"],
            peer["contradicted"], float(peer["score"]), peer["grade"],
            peer["numeric_class"][:8], peer["software"], peer["address"],
        )
        for peer in found
    ]  # fmt: skip
    headings = (
        "peer", "roles", "slots", "agreed", "contradicted", "score", "grade", "class",
        "software", "address",
    )  # fmt: skip
    output.result(found, table(headings, rows) if rows else ["no peer is connected"])


@click.command(epilog=_TALKS)
@click.argument("peer", required=False)
@located
@common
@click.pass_obj
def reputation(output: Output, place: Place, peer: str | None) -> None:
    """Show what this node's own jobs have shown of every peer, or the whole story of PEER.

    'agreed' counts answers that were certified or found right by this node itself, 'contradicted'
    all others. With PEER every event that moved its record is listed, with its unit.
    """
    if peer is not None:
        check_peer(peer)
    found: list[dict[str, Any]] = client_of(place).call(
        "reputation", **({} if peer is None else {"peer": peer})
    )
    rows = [
        (one["peer"], one["agreed"], one["contradicted"], float(one["score"]), one["vote"])
        for one in found
    ]
    headings = ("peer", "agreed", "contradicted", "score", "vote counts")
    lines = table(headings, rows) if rows else ["no peer has a record yet"]
    if peer is not None:
        lines += story_lines(found[0])
    output.result(found, lines)


def story_lines(record: dict[str, Any]) -> list[str]:
    """What a peer is weighed by, what is proved against it, and every event behind that."""
    lines = [
        f"checks passed in the class {name!r}: {checks}"
        for name, checks in record["checks"].items()
    ]
    if record["fault"]:
        lines.append(f"proved against it: {record['fault']}; it counts for nothing any more")
    if not record["events"]:
        return [*lines, "nothing has moved its record yet"]
    rows = [
        (event["job"][:12], event["unit"], event["event"], event["meaning"])
        for event in record["events"]
    ]
    return [*lines, "", *table(("job", "unit", "event", "meaning"), rows)]


def check_peer(text: str) -> bytes:
    """The key behind a peer id. Raises :class:`P2pfleetError`."""
    from p2pfleet.core.model.ids import parse_peer

    try:
        return parse_peer(text)
    except Malformed as error:
        raise P2pfleetError(
            f"{error}.", "A peer id begins with 12D3KooW; 'p2pfleet peers' shows some.",
            ExitCode.USAGE,
        ) from error  # fmt: skip
