"""A disk that fills up under a real node: it pauses, says why, loses nothing, and goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfleet.adapters.control.client import ControlClient
from tests.e2e.local import NodeProcess, affine_model, finished, inputs, wait_until
from tests.e2e.small_network import LOOPBACK, small_network

pytestmark = pytest.mark.e2e

UNITS = 16
DISK_MB = 160  # of which 100 are to stay free
MOUNTED = """mount -t tmpfs -o size="$0",mode=700 tmpfs "$1" &&
echo 'roles = ["volunteer"]' > "$1/node.toml" && shift && exec "$@"
"""


def mounts_are_allowed(folder: Path) -> bool:
    folder.mkdir(parents=True)
    command = ["unshare", "-m", "sh", "-c", MOUNTED, "1m", str(folder), "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except OSError:
        return False


class OnItsOwnDisk(NodeProcess):
    """A volunteer whose data folder is a small file system that only it sees."""

    def __init__(self, data_dir: Path, network: Path, bootstrap: str) -> None:
        data_dir.mkdir()
        super().__init__(
            data_dir, "run", "--data-dir", data_dir, "--network", network,
            "--listen", LOOPBACK, "--bootstrap", bootstrap,
        )  # fmt: skip
        mount = ["unshare", "-m", "sh", "-c", MOUNTED, f"{DISK_MB}m", str(data_dir), str(data_dir)]
        self._arguments = [*mount[:-1], *self._arguments]

    @property
    def inside(self) -> Path:
        """The data folder as others reach it."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{self.data_dir}")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.client = ControlClient(self.inside, timeout_s=60)

        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the node ended:\n{self.log()[-2000:]}"
            return self.client.alive()

        wait_until("it answers", up)

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Leave not a byte on the disk while the block runs."""
        file = self.inside / "somebody-elses"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, bytes(2**20))
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, bytes(512))
            yield
        finally:
            os.close(descriptor)
            file.unlink()


def test_a_full_disk_pauses_the_node_with_the_reason_and_it_resumes_by_itself(
    tmp_path: Path,
) -> None:
    if not mounts_are_allowed(tmp_path / "try"):
        pytest.skip("mounting needs root, or a kernel that lets others do it")
    with small_network(tmp_path / "net") as network:
        address = network.owner.client.call("status")["addresses"][0]
        node = OnItsOwnDisk(tmp_path / "disk", tmp_path / "net" / "network.toml", address)
        node.start()
        try:
            model = affine_model(tmp_path / "model.onnx", layers=30, width=256)
            files = inputs(tmp_path / "in", UNITS, rows=32, width=256)
            with node.filled():
                job = network.submit(model, files, lease_s=600)

                def paused() -> str:
                    status = node.client.call("status")
                    return str(status["reason"]) if status["paused"] else ""

                reason = wait_until("it says that it is paused", paused)
                assert reason.startswith("paused: ")
                assert "full" in reason or "are free" in reason
                assert reason.endswith("it resumes by itself")
                time.sleep(4.0)  # it has tried again by now
                assert paused()
                assert network.owner.client.call("job", job=job)["settled"] == 0
            wait_until("it goes on", lambda: not paused())
            assert finished(network.owner.client, job)["settled"] == UNITS
            assert all(against == 0 for _, against in network.records().values())
            assert "Traceback" not in node.log()

            # The same in the middle of the work.
            job = network.submit(model, inputs(tmp_path / "more", 40, rows=32, width=256))
            wait_until("it works", lambda: network.owner.client.call("job", job=job)["votes"] >= 2)
            with node.filled():
                wait_until("it is paused again", paused)
            assert finished(network.owner.client, job)["settled"] == 40
        finally:
            node.stop()
        assert "Traceback" not in node.log()
