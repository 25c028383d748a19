"""Options that several commands share, and the kinds of values they take."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from p2pfleet.cli.folders import Place
from p2pfleet.cli.output import Output

Command = TypeVar("Command", bound=Callable[..., Any])

_DURATION_TEXT = re.compile(
    r"(?:([0-9]{1,4})d)?(?:([0-9]{1,5})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,7})s)?"
)
_JOB_TEXT = re.compile(r"[0-9a-fA-F]{8,64}", re.ASCII)


def _set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Output).as_json = True


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Output).debug = True


def common(command: Command) -> Command:
    """``--json`` and ``--debug``; they act on the :class:`Output` that ``pass_obj`` hands over."""
    command = click.option(
        "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_set_debug,
        help="Show the traceback of an error.",
    )(command)  # fmt: skip
    return click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=_set_json,
        help="One JSON document on standard output; everything else on standard error.",
    )(command)  # fmt: skip


def located(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--data-dir`` and ``--network``; the command gets a :class:`Place` as ``place``."""

    @click.option(
        "--data-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
        help="The node's data folder (default: P2PFLEET_DATA_DIR, else the platform's).",
    )  # fmt: skip
    @click.option(
        "--network", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
        help="A network.toml (default: the data folder's). Without --data-dir, a network other "
        "than the default folder's has a folder of its own below it: networks/NAME-ID.",
    )  # fmt: skip
    @functools.wraps(command)
    def with_place(*args: Any, data_dir: Path | None, network: Path | None, **options: Any) -> Any:
        return command(*args, place=Place(data_dir, network), **options)

    return with_place


def parse_duration(text: str) -> int:
    """Milliseconds in ``2h``, ``90m``, ``1h30m``, ``45s`` or ``2d``."""
    match = _DURATION_TEXT.fullmatch(text)
    if match is None or not any(match.groups()):
        raise click.BadParameter(f"{text[:80]!r} is no time span; write it like 2h, 1h30m or 45s.")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < total <= 366 * 24 * 3600:
        raise click.BadParameter("a time span is more than nothing and at most a year.")
    return total * 1000


def parse_job_text(text: str) -> str:
    """A job's id, or its first digits, eight at least."""
    if not _JOB_TEXT.fullmatch(text):
        raise click.BadParameter(
            f"{text[:80]!r} is no job id; give its hexadecimal digits, the first 8 at least "
            "('p2pfleet job list' shows them)."
        )
    return text.lower()
