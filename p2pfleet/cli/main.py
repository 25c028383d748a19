"""The entry point: which commands there are, and how each of them ends.

A command's module is imported when the command is called, and imports what is heavy when it needs
it, so that ``p2pfleet status`` costs no more than a few small modules.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from p2pfleet import __version__
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.core.errors import ExitCode, P2pfleetError

# In the order of --help: first what sets a node up, then what talks to it.
_COMMANDS = {
    "init": "init:init",
    "config": "config_check:config",
    "network": "network:network",
    "run": "run:run",
    "doctor": "doctor:doctor",
    "status": "control:status",
    "pause": "control:pause",
    "resume": "control:resume",
    "submit": "submit:submit",
    "job": "job:job",
    "unit": "unit:unit",
    "verify": "verify:verify",
    "peers": "control:peers",
    "reputation": "control:reputation",
    "credit": "credit:credit",
    "testnet": "testnet:testnet",
    "demo": "demo:demo",
    "sim": "sim:sim",
}


class Commands(click.Group):
    """Imports a command when it is asked for, and turns whatever it raises into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, name = place.split(":")
        command = getattr(importlib.import_module(f"p2pfleet.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line ``args`` and exit with its code; no exception gets through."""
        given = list(sys.argv[1:] if args is None else args)
        # A mistake on the command line may keep click from ever reading these two.
        options = given[: given.index("--")] if "--" in given else given
        output = Output("--json" in options, "--debug" in options)
        extra.setdefault("obj", output)
        try:
            code = super().main(
                given, prog_name or "p2pfleet", complete_var, standalone_mode=False, **extra
            )
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our output has left; nothing may be written there at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.FAILED
        except BaseException as error:
            code = _explain(error, output)
        sys.exit(int(code or 0))


def _explain(error: BaseException, output: Output) -> int:
    leaves = list(_leaves(error))
    for leaf in leaves:
        if not isinstance(leaf, (P2pfleetError, click.ClickException, click.Abort)) and isinstance(
            leaf, Exception
        ):
            return _report_bug(leaf, error, output)
    if any(isinstance(leaf, (KeyboardInterrupt, click.Abort)) for leaf in leaves):
        output.error(P2pfleetError("interrupted.", code=ExitCode.INTERRUPTED))
        return ExitCode.INTERRUPTED
    for leaf in leaves:
        if isinstance(leaf, P2pfleetError):
            output.error(leaf)
            return leaf.code
        if isinstance(leaf, click.ClickException):
            output.error(_usage_error(leaf))
            return ExitCode.USAGE
        if isinstance(leaf, SystemExit):
            return leaf.code if isinstance(leaf.code, int) else ExitCode.FAILED
    return _report_bug(error, error, output)


def _leaves(error: BaseException) -> list[BaseException]:
    """What really happened: nurseries wrap it into groups, one around the other."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _usage_error(error: click.ClickException) -> P2pfleetError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "p2pfleet"
    text = error.format_message().strip()
    if type(error).__name__ == "NoArgsIsHelpError":
        if context is not None:
            click.echo(context.get_help(), err=True)
        text = "a command is missing."
    text = text if text.endswith((".", "?")) else f"{text}."
    return P2pfleetError(text[:1].lower() + text[1:], f"See '{command} --help'.", ExitCode.USAGE)


def _report_bug(leaf: BaseException, error: BaseException, output: Output) -> int:
    if output.debug:
        traceback.print_exception(error)
    output.debug = False  # what follows is no error of its own
    output.error(
        P2pfleetError(
            f"p2pfleet made a mistake ({type(leaf).__name__}: {str(leaf)[:300]}).",
            "Please report it with what you did and what the same command with --debug shows.",
        )
    )
    return ExitCode.FAILED


@click.group(
    cls=Commands,
    epilog=exit_codes(*ExitCode),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="p2pfleet")
def cli() -> None:
    """A volunteer computer without a server.

    Volunteers run a node; researchers publish jobs: an ONNX model, inputs, and how many volunteers
    have to agree. Begin with 'p2pfleet demo', or with 'p2pfleet init'.
    """


def main() -> NoReturn:
    """What the ``p2pfleet`` script calls."""
    try:
        cli.main()
    except SystemExit as end:
        embedded = sys.modules.get("p2pfleet.cli.embedded")
        if embedded is not None and embedded.wrecks:
            # A node did not close in time; neither might its threads, nor the interpreter quietly.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else ExitCode.FAILED)
        raise


if __name__ == "__main__":
    main()
