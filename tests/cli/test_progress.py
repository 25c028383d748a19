"""The progress of a job, on a real terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

SHOW = """
from p2pfleet.cli.output import Output
from p2pfleet.cli.progress import JobProgress
job = dict(units=36, settled=0, failed=0, certified=0, contested=0, running=4, volunteers=3)
with JobProgress(Output(as_json=False, debug=False)) as progress:
    for settled in (0, 12, 36):
        progress.update(job | dict(settled=settled, certified=1))
"""


def on_a_terminal(source: str) -> tuple[int, str]:
    """Run ``source`` with a terminal as standard error; the exit code and what stood on it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        seen = bytearray()
        try:
            while data := os.read(ours, 4096):
                seen += data
        except OSError:
            pass  # the other end is closed: that is how a terminal ends
        finally:
            os.close(ours)
        return process.wait(30), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_a_terminal_shows_a_bar_with_units_replicas_and_volunteers() -> None:
    code, seen = on_a_terminal(SHOW)
    assert code == 0, seen
    assert "Traceback" not in seen
    assert "36/36 units" in seen
    assert "1 certified, 4 replicas running, 3 volunteers" in seen


def test_elsewhere_there_is_a_line_now_and_then() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, timeout=30, check=True
    )
    assert "0 of 36 units settled, 1 certified" in done.stderr
    assert "36 of 36 units settled" in done.stderr
