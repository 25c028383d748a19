"""What holds for every command: help, JSON, exit codes, errors without tracebacks, quick starts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from p2pfleet.cli.main import cli
from p2pfleet.cli.output import clean, duration, table
from p2pfleet.core.errors import ExitCode
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import JOB, FakeNode

HEAVY = ("libp2p", "trio", "numpy", "onnxruntime", "rich", "nacl", "sqlite3", "psutil")


def all_commands() -> list[tuple[str, ...]]:
    def below(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        if not isinstance(command, click.Group):
            return [path]
        context = click.Context(command)
        found = []
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += below(inner, (*path, name))
        return found

    return below(cli, ())


COMMANDS = all_commands()


def test_the_commands_are_those_that_scripts_rely_on() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        "init", "config check", "network create", "network show", "network require",
        "network members add", "network members remove", "network members list",
        "network invite", "network join", "network add-bootstrap", "run",
        "doctor", "status", "pause", "resume", "submit", "job list", "job show", "job watch",
        "job results", "job cancel", "unit run", "verify", "peers", "reputation", "credit",
        "testnet up",
        "testnet run", "testnet status", "testnet down", "testnet node", "demo", "sim",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_documents_json_and_its_exit_codes(
    invoke: Invoke, path: tuple[str, ...]
) -> None:
    result = invoke(*path, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    if path != ("testnet", "node"):
        assert "Exit codes:" in result.stdout
        assert "  130  interrupted" in result.stdout


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_wrong_option_is_one_document_and_exit_code_2(
    invoke: Invoke, path: tuple[str, ...]
) -> None:
    result = invoke(*path, "--no-such-option", "--json")
    assert result.exit_code == ExitCode.USAGE
    error = document(result)["error"]
    assert error["code"] == ExitCode.USAGE
    assert "--no-such-option" in error["message"]
    assert "--help" in error["advice"]
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("pause",),
        ("resume",),
        ("peers",),
        ("reputation",),
        ("job", "list"),
        ("job", "show", JOB),
        ("job", "watch", JOB),
        ("job", "results", JOB, "--output", "out"),
        ("job", "cancel", JOB),
    ],
    ids=" ".join,
)
def test_without_a_node_every_command_that_needs_one_says_how_to_start_it(
    invoke: Invoke, home: Path, args: tuple[str, ...]
) -> None:
    result = invoke(*args, "--json")
    assert result.exit_code == ExitCode.NO_NODE
    error = document(result)["error"]
    assert error["code"] == ExitCode.NO_NODE
    assert str(home) in error["message"]
    assert "p2pfleet run" in error["advice"]


def test_an_unknown_command_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("frobnicate")
    assert result.exit_code == ExitCode.USAGE
    assert "frobnicate" in result.stderr
    assert result.stdout == ""


def test_no_command_at_all_shows_what_there_is(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == ExitCode.USAGE
    assert "submit" in result.stderr


def test_a_bug_is_one_line_that_asks_for_a_report(
    invoke: Invoke, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["status"] = lambda _: {"not": "a status"}
    result = invoke("status", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert "Traceback" not in result.stderr
    error = document(result)["error"]
    assert "KeyError" in error["message"]
    assert "--debug" in error["advice"]

    shown = invoke("status", "--debug")
    assert shown.exit_code == ExitCode.FAILED
    assert "Traceback" in shown.stderr


def test_the_node_s_own_errors_keep_their_code(invoke: Invoke, node: FakeNode) -> None:
    from tests.cli.fake_node import Refusal

    def refuse(_: object) -> object:
        raise Refusal("The store is damaged.", "Restore it.", ExitCode.DAMAGED)

    node.answers["status"] = refuse
    result = invoke("status")
    assert result.exit_code == ExitCode.DAMAGED
    assert result.stderr == "error: The store is damaged. Restore it.\n"


def test_what_strangers_wrote_cannot_steer_the_terminal(invoke: Invoke, node: FakeNode) -> None:
    node.answers["peers"] = lambda _: [
        {
            "peer": "\x1b[2J\x1b]0;owned\x07", "address": "a\nb", "roles": ["volunteer"],
            "slots": 1, "software": "\x9b31m\u202e", "agreed": 0, "contradicted": 0, "score": 0.5,
            "grade": "\x1b[2J", "numeric_class": "\x07", "onnxruntime": "\n",
        }
    ]  # fmt: skip
    result = invoke("peers")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert all(line.isprintable() for line in result.stdout.splitlines())
    assert document(invoke("peers", "--json"))[0]["peer"].startswith("\x1b")


def test_tables_time_spans_and_control_characters_are_readable() -> None:
    assert table(("peer", "n"), [("ab", 5), ("c", 12)]) == ["peer   n", "ab     5", "c     12"]
    assert [duration(s) for s in (0.2, 59.6, 3599, 7300, 200_000)] == [
        "0 s", "1 min 0 s", "59 min 59 s", "2 h 1 min", "2 d 7 h",
    ]  # fmt: skip
    assert clean("a\x1b\n\u200bé") == "a\\x1b\\x0a\\x200bé"


def run_measured(code: str) -> tuple[float, str]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, done.stdout


def test_the_command_line_stays_thin() -> None:
    """No help and no command that only talks to a node may import what is heavy."""
    code = f"""
import sys
from p2pfleet.cli.main import cli
for args in (["--help"], ["submit", "--help"], ["status", "--data-dir", "/nonexistent"],
             ["testnet", "status", "--dir", "/nonexistent"], ["submit", "a", "b"]):
    try:
        cli.main(args)
    except SystemExit:
        pass
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    cpu_s, out = run_measured(code)
    assert out.splitlines()[-1] == "HEAVY []"
    help_s, _ = run_measured("from p2pfleet.cli.main import cli\ncli.main(['--help'])")
    print(f"\n--help: {help_s:.2f} s CPU; five commands in one process: {cpu_s:.2f} s CPU")
    assert help_s < 3, "it takes about 0.2 s; even a very busy machine needs no 3"


def test_a_reader_that_leaves_early_causes_no_noise(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "p2pfleet.cli.main", "--help"],
        stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == ""
