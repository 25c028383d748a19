"""Every hostile model as a job through running nodes: refused or killed, and nothing is left.

The publisher of these jobs does not look at its models; the volunteer is a node as people run it.
Models of one's own can be tried in the same way: P2PFLEET_HOSTILE_MODELS names a folder of .onnx
files with a feeds.json (see tests/hostile).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest

from p2pfleet.core.wire.tensors import Tensor, encode_bundle
from tests.e2e.local import NodeProcess, affine_model, p2pfleet, publisher, wait_until
from tests.e2e.small_network import SmallNetwork, Volunteer, small_network
from tests.hostile import FAMILIES, HARMLESS_SAMPLES, HOSTILE, LIMITS, RUNS, Hostile, from_folder

pytestmark = pytest.mark.e2e

FOLDER = "P2PFLEET_HOSTILE_MODELS"
TERMS: dict[str, Any] = {"cpu_s": 0.5, "memory_mb": 256, "output_mb": 16, "lease_s": 20}
AT_ONCE = 24
PATIENCE_S = 120
GONE_WITHIN_S = 5


class End(NamedTuple):
    """How a job ended at its publisher."""

    kind: str
    reason: str


class Ground:
    """A careless publisher, a volunteer, and what the volunteer held before the first job."""

    def __init__(self, net: SmallNetwork, temporary: Path, folder: Path) -> None:
        self.net = net
        self.temporary = temporary
        self.folder = folder
        self.volunteer = net.volunteer(slots=2, disk_mb=256)
        self._honest_model = affine_model(folder / "honest.onnx")
        self.honest()  # so that what one job of any kind leaves open is there already
        self.before = self.held()
        self.open_files = int(self.volunteer.status()["open_files"])

    def submit(self, entry: Hostile) -> str:
        model = self.folder / f"{entry.family}-{entry.name}.onnx".replace("/", "_")
        model.write_bytes(entry.model())
        return self._submit(model, entry.feeds)

    def _submit(self, model: Path, feeds: dict[str, Any]) -> str:
        bundle = self.folder / "feeds.bundle"
        bundle.write_bytes(bundle_of(feeds))
        return self.net.submit(model, [bundle], **{**TERMS, "name": model.stem[:60]})

    def ends_of(self, entries: Sequence[Hostile]) -> dict[str, End]:
        """Publish all of them, some at a time, and say how each one's only unit ended."""
        # The slow ones first, so that the others run beside them.
        waiting = sorted(entries, key=lambda entry: not set(entry.ends) & set(LIMITS))
        running: dict[str, Hostile] = {}
        ends: dict[str, End] = {}
        deadline = time.monotonic() + PATIENCE_S
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                entry = waiting.pop(0)
                running[self.submit(entry)] = entry
            for job, entry in list(running.items()):
                view = self.net.owner.client.call("job", job=job)
                slow = f"unit 0 of job {job[:8]}: wall: "
                if view["state"] == "active" and slow in self.volunteer.node.log():
                    # Killed at the wall limit, because this machine is busy: the volunteer leaves
                    # the unit to others, and nobody else is here.
                    self.net.owner.client.call("cancel", job=job)
                    ends[entry.name] = End("wall", "too slow on this machine")
                    del running[job]
                elif view["state"] != "active":
                    ends[entry.name] = end_of(view)
                    del running[job]
            assert time.monotonic() < deadline, f"these do not end: {running}"
            time.sleep(0.05)
        return ends

    def honest(self) -> None:
        """An honest job is served, right away."""
        job = self._submit(self._honest_model, {"x": np.ones((2, 16), np.float32)})

        def over() -> Any:
            view = self.net.owner.client.call("job", job=job)
            return view if view["state"] != "active" else None

        view = wait_until("the honest job is over", over, 30)
        assert (view["state"], view["settled"]) == ("completed", 1)

    def held(self) -> dict[str, Any]:
        """What the volunteer's processes hold of the machine, but for the packs."""
        data_dir = self.volunteer.node.data_dir
        packs = data_dir / "packs"
        return {
            "process": self.volunteer.client.call("ping")["pid"],
            "servers": sorted(server.pid for server in self.volunteer._descendants()),
            "memory files": memory_files(self.volunteer),
            "shared memory": sorted(os.listdir("/dev/shm")),
            "temporary files": sorted(os.listdir(self.temporary)),
            "data folder": sorted(
                str(path.relative_to(data_dir))
                for path in data_dir.rglob("*")
                if packs not in path.parents
            ),
        }

    def check_nothing_is_left(self) -> None:
        """Everything is as before the first job, within some seconds."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while (held := self.held()) != self.before and time.monotonic() < deadline:
            time.sleep(0.1)
        assert held == self.before
        status = self.volunteer.status()
        assert status["open_files"] <= self.open_files + 4
        assert status["limits"]["disk_used_mb"] <= 256


def bundle_of(feeds: dict[str, Any]) -> bytes:
    return encode_bundle(
        tuple(
            Tensor(name, value.dtype.name, value.shape, value.tobytes())
            for name, value in ((name, np.asarray(value)) for name, value in feeds.items())
        )
    )


def end_of(view: dict[str, Any]) -> End:
    if view["settled"]:
        return End("runs", "")
    if view["failures"]:
        kind, _, reason = view["failures"][0]["reason"].partition(": ")
        return End(kind, reason)
    return End(view["state"], view["reason"])


def memory_files(volunteer: Volunteer) -> int:
    """How many memfds the node and its fork server hold open."""
    count = 0
    for process in (volunteer.process, *volunteer.servers):
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        except (PermissionError, FileNotFoundError, psutil.NoSuchProcess):
            continue  # not to be seen by this user
        count += sum("memfd:" in link for link in links)
    return count


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("hostile")
    temporary = folder / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with small_network(folder / "net", checked=False) as net:
            yield Ground(net, temporary, folder)


def check(ground: Ground, entries: Sequence[Hostile]) -> None:
    began = time.monotonic()
    ends = ground.ends_of(entries)
    seconds = time.monotonic() - began
    for entry in entries:
        kind, reason = ends[entry.name]
        print(f"{entry.family:>18} {entry.name:<28} {kind}: {reason[:130]}")
    print(f"{len(entries)} in {seconds:.1f} s")
    wrong = {
        entry.name: ends[entry.name] for entry in entries if not entry.ended_well(*ends[entry.name])
    }
    ground.honest()
    ground.check_nothing_is_left()
    assert wrong == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_hostile_jobs_end_and_the_volunteer_serves_on(ground: Ground, family: str) -> None:
    check(ground, [entry for entry in HOSTILE if entry.family == family])


def test_all_of_them_at_once_end_at_one_node(ground: Ground) -> None:
    """The whole catalogue, and the folder that the environment names, side by side."""
    entries = list(HOSTILE)
    if FOLDER in os.environ:
        entries += from_folder(Path(os.environ[FOLDER]), HARMLESS_SAMPLES)
    check(ground, entries)


@pytest.fixture(scope="module")
def honest_publisher(ground: Ground) -> Iterator[NodeProcess]:
    with publisher(ground.folder / "publisher", ground.folder / "net" / "network.toml") as node:
        yield node


@pytest.mark.parametrize("family", FAMILIES)
def test_the_publisher_hears_at_submit_what_is_wrong_with_its_model(
    honest_publisher: NodeProcess, tmp_path: Path, family: str
) -> None:
    # The command itself refuses an empty file.
    family_ = (one for one in HOSTILE if one.family == family and RUNS not in one.ends)
    entry = next(one for one in family_ if one.model())
    model, feeds = tmp_path / "model.onnx", tmp_path / "feeds.npz"
    model.write_bytes(entry.model())
    np.savez(feeds, **entry.feeds)  # type: ignore[arg-type]
    done = p2pfleet(
        "submit", model, feeds, "--cpu-s", "0.5", "--memory-mb", "256", "--output-mb", "16",
        "--data-dir", honest_publisher.data_dir,
    )  # fmt: skip
    print(f"{entry.name}: {done.stderr.strip()}")

    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stdout + done.stderr + honest_publisher.log()
    assert done.stderr.startswith("error: ")
    assert "model.onnx cannot be used as a model: " in done.stderr or "first unit" in done.stderr
    if not set(entry.ends) & {*LIMITS, "model", "output", "crash"}:
        assert any(f'the rule "{rule}"' in done.stderr for rule in entry.ends)
    assert honest_publisher.client.call("jobs") == []
