"""What plain onnxruntime makes of the cases, in processes that may crash."""

from __future__ import annotations

import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.conformance.cases import Case, bundle_of

CHECKOUT = Path(__file__).parents[2]
_SECONDS = 60


class Plain(NamedTuple):
    """One run; ``bundle`` is ``None`` when it failed or when its outputs cannot travel."""

    ran: bool
    bundle: bytes | None
    reason: str


class Worker:
    """One process at a time; after a crash, the next request starts another."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, case: Case) -> Plain:
        """Load and run the case's model; blocks, for a minute at most."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        request = pickle.dumps((case.model, case.feeds))
        timer = threading.Timer(_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(len(request).to_bytes(8, "big") + request)
            process.stdin.flush()
            head = process.stdout.read(8)
            data = process.stdout.read(int.from_bytes(head, "big"))
        except BrokenPipeError:
            head = b""
        finally:
            timer.cancel()
        if not head:
            self.close()
            return Plain(False, None, f"the process ended with {process.returncode}")
        kind, value = pickle.loads(data)
        if kind == "failed":
            return Plain(False, None, value)
        return Plain(True, bundle_of(value), "")

    def close(self) -> None:
        """End the process; idempotent."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.conformance.plain_worker"],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


def run_all(cases: Iterable[Case], workers: int = 2) -> list[Plain]:
    """One result a case, in their order."""
    with _workers(workers) as free, ThreadPoolExecutor(workers) as threads:

        def run(case: Case) -> Plain:
            worker = free.get()
            try:
                return worker.run(case)
            finally:
                free.put(worker)

        return list(threads.map(run, cases))


@contextmanager
def _workers(count: int) -> Iterator[queue.SimpleQueue[Worker]]:
    workers = [Worker() for _ in range(count)]
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)
    try:
        yield free
    finally:
        for worker in workers:
            worker.close()
