"""What holds for every test: the order of the folders, and no skips in CI."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# Sets the environment that onnxruntime and yamux read when they are imported.
import p2pfleet

assert p2pfleet.__version__

# Started in the background by a shell, this process ignores SIGINT, and so would those it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent

# What takes longest comes last; folders that neither line names run in between.
QUICK = ("core", "properties", "spec", "adapters")
SLOW = ("packaging", "e2e")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--forbid-skips",
        action="store_true",
        help="fail when a test was skipped (CI installs whatever a test may want)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    if folder in QUICK:
        return QUICK.index(folder)
    return len(QUICK) + (1 + SLOW.index(folder) if folder in SLOW else 0)


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter is not None else 0


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if (
        session.config.getoption("--forbid-skips")
        and _skipped(session.config)
        and session.exitstatus == pytest.ExitCode.OK
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--forbid-skips") and _skipped(config):
        terminalreporter.section("skipped tests are forbidden here")
        terminalreporter.line("Add what they want to `packages` in .ci/run; see CONTRIBUTING.md.")
