"""``doctor``: whether this machine can volunteer, before any node runs on it."""

from __future__ import annotations

from typing import Any

import click

from p2pfleet.cli.control import client_of, sandbox_text
from p2pfleet.cli.folders import Place
from p2pfleet.cli.options import common, located
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.core.errors import ExitCode


@click.command(epilog=exit_codes())
@located
@common
@click.pass_obj
def doctor(output: Output, place: Place) -> None:
    """Try the sandbox on this machine: what it keeps a stranger's model from, and what it does not.

    If a node runs here, its clock is looked at as well: its peers know whether it is right.

    Exits with 0 if the machine may run strangers' work (grade A or B), else with 1.
    """
    import trio

    found = trio.run(_look)
    lines = [f"sandbox   {sandbox_text(found)}", ""]
    lines += [
        f"  {'holds' if shown['held'] else 'MISSING'}  {shown['name']}: {shown['detail']}"
        for shown in found["properties"]
    ]
    fit = found["grade"] in ("A", "B")
    lines += ["", "This machine can run strangers' work." if fit else found["advice"]]
    clock = _clock(place)
    if clock:
        lines += ["", f"clock     {clock}"]
    output.result({"fit": fit, "sandbox": found, "clock": clock}, lines)
    if not fit:
        raise SystemExit(ExitCode.FAILED)


def _clock(place: Place) -> str:
    """What is wrong with the clock, as far as a node that runs here has heard."""
    client = client_of(place)
    if not client.alive():
        return ""
    status: dict[str, Any] = client.call("status")
    return str(status.get("clock", {}).get("warning", ""))


async def _look() -> dict[str, Any]:
    from p2pfleet.adapters.sandbox import open_executors
    from p2pfleet.runtime.views import sandbox_view

    async with open_executors() as executors:
        return sandbox_view(executors.strangers.report)
