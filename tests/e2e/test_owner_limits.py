"""The machine is its owner's: what a volunteer's children may take, and how at once a pause is."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.local import COMMAND, affine_model, document, finished, inputs, p2pfleet, wait_until
from tests.e2e.small_network import SmallNetwork, Volunteer, cpu_s, small_network

pytestmark = pytest.mark.e2e

PATIENCE_S = 60


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallNetwork]:
    with small_network(tmp_path_factory.mktemp("limits") / "net") as network:
        network.volunteer()
        network.volunteer()
        yield network


def long_unit(folder: Path, layers: int = 300) -> tuple[Path, list[Path]]:
    """A job of one unit that computes for some seconds, some milliseconds a layer."""
    model = affine_model(folder / "model.onnx", layers=layers, width=512)
    return model, inputs(folder / "in", 1, rows=1024, width=512)


def who_computes(net: SmallNetwork) -> tuple[Volunteer, psutil.Process]:
    """The volunteer that computes, once only one does: claims that met have been sorted out."""
    alone: list[tuple[Volunteer, psutil.Process]] = []

    def settled() -> bool:
        busy = [(one, child) for one in net.volunteers if (child := one.computing(0.3))]
        still = [one for one in net.volunteers if one.computing(0.01)]
        if len(busy) == 1 and len(still) == 1:
            alone[:] = busy
        return len(alone) == 1

    wait_until("one volunteer computes", settled, PATIENCE_S)
    return alone[0]


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def state_letter(process: psutil.Process) -> str:
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


def seconds_until(condition: object, began: float, within_s: float) -> float:
    assert callable(condition)
    while not condition():
        assert time.monotonic() - began < within_s
        time.sleep(0.005)
    return time.monotonic() - began


def test_children_have_the_lowest_priority_there_is(net: SmallNetwork, tmp_path: Path) -> None:
    job = net.submit(*long_unit(tmp_path))
    volunteer, child = who_computes(net)
    niceness, policy = child.nice(), os.sched_getscheduler(child.pid)
    threads = child.num_threads()
    net.owner.client.call("cancel", job=job)

    assert niceness == 19
    assert policy == os.SCHED_IDLE
    assert threads == 1
    assert os.sched_getscheduler(volunteer.process.pid) == os.SCHED_OTHER


def test_status_shows_the_limits(net: SmallNetwork) -> None:
    folder = net.volunteers[0].node.data_dir
    limits = document("status", "--data-dir", folder)["limits"]
    assert limits.pop("disk_used_mb") >= 0
    assert limits == {
        "threads": 1, "memory_mb": 2048, "cpu_percent": 100, "disk_mb": 10240, "unit_cpu_s": 3600,
        "custody_mb": 2560, "custody_used_mb": 0.0,
    }  # fmt: skip
    shown = p2pfleet("status", "--data-dir", folder).stdout
    assert "1 threads, 100 % of the time, 2048 MiB and 3600 s a unit" in shown


def test_a_pause_freezes_within_a_second_and_others_finish_the_unit(
    net: SmallNetwork, tmp_path: Path
) -> None:
    lease_s = 5
    before = net.records()
    job = net.submit(*long_unit(tmp_path), lease_s=lease_s)
    paused, child = who_computes(net)

    # The command as a person gives it; what counts is the time from its start.
    began = time.monotonic()
    with subprocess.Popen(
        [*COMMAND, "pause", "--data-dir", str(paused.node.data_dir)], stdout=subprocess.DEVNULL
    ) as command:
        assert command.wait(30) == 0
    answered = time.monotonic()
    seconds_until(lambda: state_letter(child) == "T", answered, 1.0)
    print(f"frozen {time.monotonic() - began:.3f} s after the command was started")

    used = cpu_s(child)
    asleep = time.monotonic()
    while time.monotonic() - asleep < 1:
        if is_gone(child):
            break
        assert state_letter(child) == "T"
        assert cpu_s(child) == used
        time.sleep(0.05)

    # It renewed its claim for the last time before the pause.
    gone = seconds_until(lambda: is_gone(child), began, lease_s + 3)
    print(f"killed {gone:.1f} s after the pause, lease {lease_s} s")
    assert finished(net.owner.client, job)["settled"] == 1
    assert paused.children() == []
    assert paused.status()["paused"] is True

    document("resume", "--data-dir", paused.node.data_dir)
    assert net.records().get(paused.peer) == before.get(paused.peer)
    assert paused.status()["paused"] is False


def test_a_resumed_child_goes_on_where_it_stood(net: SmallNetwork, tmp_path: Path) -> None:
    job = net.submit(*long_unit(tmp_path), lease_s=30)
    paused, child = who_computes(net)
    executed = paused.status()["executed"]
    document("pause", "--data-dir", paused.node.data_dir)
    wait_until("it is frozen", lambda: state_letter(child) == "T")
    used = cpu_s(child)
    time.sleep(0.5)
    assert cpu_s(child) == used
    document("resume", "--data-dir", paused.node.data_dir)
    wait_until("it computes again", lambda: is_gone(child) or cpu_s(child) > used)
    assert finished(net.owner.client, job)["settled"] == 1
    assert paused.status()["executed"] == executed + 1


def run_s(process: psutil.Process) -> float:
    """Processor time used so far, by the scheduler's own count, which is finer than ticks."""
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def starving(volunteer: Volunteer) -> Iterator[list[int]]:
    """Keep the volunteer's children from the processor in the midst of their units, as a busy
    machine does; yields those that were hit. To load takes them a fraction of that time."""
    starved: list[int] = []
    done = threading.Event()

    def starve() -> None:
        while not done.wait(0.005):
            for child in volunteer.children():
                with suppress(OSError, psutil.NoSuchProcess):
                    if child.pid not in starved and run_s(child) > 0.12:
                        os.kill(child.pid, signal.SIGSTOP)
                        starved.append(child.pid)

    thread = threading.Thread(target=starve)
    thread.start()
    try:
        yield starved
    finally:
        done.set()
        thread.join()


def test_a_wall_limit_on_a_busy_machine_leaves_the_unit_to_others_and_is_no_fault(
    net: SmallNetwork, tmp_path: Path
) -> None:
    busy, idle = net.volunteers
    model = affine_model(tmp_path / "model.onnx", layers=60, width=512)
    files = inputs(tmp_path / "in", 1, rows=1024, width=512)  # a third of a second
    before = net.records()
    executed = idle.status()["executed"]
    document("pause", "--data-dir", idle.node.data_dir)
    with starving(busy) as starved:
        job = net.submit(model, files, cpu_s=0.75, lease_s=10)
        wait_until("the wall limit", lambda: "wall: it took" in busy.node.log(), PATIENCE_S)
        assert starved
        view = net.owner.client.call("job", job=job)
        assert (view["state"], view["failed"]) == ("active", 0)
        document("resume", "--data-dir", idle.node.data_dir)
        view = finished(net.owner.client, job)

    assert (view["settled"], view["failed"], view["failures"]) == (1, 0, [])
    assert idle.status()["executed"] == executed + 1
    assert net.records().get(busy.peer) == before.get(busy.peer)
    assert busy.children() == []


def test_a_small_share_of_the_processor_is_kept(net: SmallNetwork, tmp_path: Path) -> None:
    """A node of its own network, because it is slow on purpose."""
    with small_network(tmp_path / "net") as slow_net:
        slow = slow_net.volunteer(cpu_percent=20)
        assert slow.status()["limits"]["cpu_percent"] == 20
        job = slow_net.submit(*long_unit(tmp_path, layers=400))
        _, child = who_computes(slow_net)
        began, used = time.monotonic(), run_s(child)
        time.sleep(3)
        share = (run_s(child) - used) / (time.monotonic() - began)
        print(f"share {share:.3f}")
        assert 0.02 < share < 0.26
        slow_net.owner.client.call("cancel", job=job)
        wait_until("the child is gone", lambda: is_gone(child))
