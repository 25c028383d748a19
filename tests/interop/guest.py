"""The js-libp2p node of ``js/`` as a process: its packages, its start, its report line by line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).with_name("js")
# Git-ignored, and reused by the next run: a clean checkout installs once.
CACHE = Path(__file__).parents[2] / ".cache" / "interop-js"
INSTALL_S = 240.0
NODE_MIN = 20


def missing() -> str | None:
    """Why the guest cannot run on this machine; None if it can."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: nodejs, npm)"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.strip().lstrip("v").split(".")[0]) < NODE_MIN:
        return f"node is {version.stdout.strip()}, and js-libp2p needs {NODE_MIN} or newer"
    return None


def node_modules() -> Path:
    """The folder of the guest's packages, in exactly the versions of its lock.

    They come from the registry that npm is configured for, and are held against the hashes in the
    lock. No package's script is run.
    """
    wanted = ("package.json", "package-lock.json", ".npmrc")
    stamp = hashlib.sha256(b"\0".join((SOURCES / name).read_bytes() for name in wanted)).hexdigest()
    folder = CACHE / stamp[:16]
    if folder.is_dir():
        return folder / "node_modules"
    CACHE.mkdir(parents=True, exist_ok=True)
    # Installed beside it and renamed: what has the final name is complete.
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="installing-") as place:
        for name in wanted:
            shutil.copy(SOURCES / name, place)
        log = Path(place, "npm.log")
        with log.open("wb") as output:
            npm = subprocess.Popen(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund",
                 "--no-update-notifier"],
                cwd=place, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                status: int | None = npm.wait(INSTALL_S)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                npm.kill()
                npm.wait()
        said = log.read_text(errors="replace")[-2000:]
        assert status is not None, f"npm ci took more than {INSTALL_S:.0f} s:\n{said}"
        assert status == 0, f"npm ci failed ({status}):\n{said}"
        with contextlib.suppress(OSError):  # another run was first; its folder is as good
            Path(place).rename(folder)
            Path(place).mkdir()  # which the block takes away
    for other in CACHE.iterdir():  # of an earlier lock
        if other != folder and not other.name.startswith("installing-"):
            shutil.rmtree(other, ignore_errors=True)
    return folder / "node_modules"


def sources(folder: Path, modules: Path) -> Path:
    """A copy of the guest's own files with its packages beside them, where node looks for them."""
    folder.mkdir()
    for path in SOURCES.glob("*.mjs"):
        shutil.copy(path, folder)
    os.symlink(modules, folder / "node_modules", target_is_directory=True)
    return folder


class Guest:
    """A guest that runs; what it says is read as it comes."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.said: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, what: str, patience_s: float = 90.0) -> dict[str, Any]:
        """The next line that says ``what``; whatever comes before it is in ``said`` as well."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"the guest never said {what!r}: {self._story()}") from None
            assert line is not None, f"the guest ended before it said {what!r}: {self._story()}"
            found: dict[str, Any] = json.loads(line)
            self.said.append(found)
            assert found["what"] != "failed", self._story()
            if found["what"] == what:
                return found

    def told(self, what: str) -> list[dict[str, Any]]:
        """All lines so far that say ``what``."""
        return [one for one in self.said if one["what"] == what]

    def greet(self) -> None:
        """Tell it to say hello now."""
        assert self._process.stdin is not None
        self._process.stdin.write("greet\n")
        self._process.stdin.flush()

    def leave(self) -> int:
        """Ask it to go; returns its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.until("left")
        return self._process.wait(10)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _story(self) -> str:
        said = "\n".join(json.dumps(one) for one in self.said)
        return f"{said}\n{self._log.read_text(errors='replace')[-2000:]}"


@contextlib.contextmanager
def guest(folder: Path, terms: dict[str, Any]) -> Iterator[Guest]:
    """A guest of these terms (see ``js/index.mjs``) while the block runs."""
    log = folder / "guest.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["node", folder / "index.mjs", json.dumps(terms)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    running = Guest(process, log)
    try:
        yield running
    finally:
        running.end()
