"""A child without a fork server: ``python -I -S -B alone.py PATH...``, one model, two pipes.

For the unconfined executor: the same model code behind the same messages, but nothing that only
Linux has. What the child is asked comes through standard input, what it answers goes to standard
output; each message is a MessagePack array after its length (4 bytes, big-endian), and a payload
too large for a message follows it raw, its size standing in the message.

A thread of its own reads, so that a child whose node is gone ends at once, whatever it computes.
"""

from __future__ import annotations

import importlib
import io
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

HEAD_BYTES = 4
_PACKAGE = "p2pfleet_inside"


def main() -> None:
    """Load the package beside this file under a name of its own, and serve."""
    sys.path += sys.argv[1:]
    # By path, because importing it as part of p2pfleet would pull in the node's code.
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(Path(__file__).resolve().parent)]
    sys.modules[_PACKAGE] = package
    importlib.import_module(f"{_PACKAGE}.alone").serve()


def serve() -> None:
    """Answer until the node closes its end; what is asked first says what for.

    ``["probe", 0]``: the numeric class of this machine. ``["job", terms, size]`` and a model: load
    it; then ``[number, "count", size]`` and shapes: say how much work a unit is; then
    ``[number, bundle or size]``: run it.
    """
    from .terms import EXIT_MEMORY

    if sys.byteorder != "little":
        raise RuntimeError("bundles are little-endian, this machine is not")
    channel = _Channel()
    status = 1
    try:
        what, *rest = channel.receive()
        if what == "probe":
            _probe(channel)
        else:
            _work(channel, *rest)
        status = 0
    except MemoryError:
        status = EXIT_MEMORY
    finally:
        if status == 1 and not isinstance(sys.exception(), MemoryError):
            sys.excepthook(*sys.exc_info())
        # Not the usual way out, which waits for the thread that reads.
        os._exit(status)


class _Channel:
    """The two pipes. Nothing else in the process can write to them by accident."""

    def __init__(self) -> None:
        self._requests = os.fdopen(os.dup(0), "rb")
        self._replies = os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        self._queue: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self.limits = _Limits()
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self) -> list[Any]:
        """The next request, its payload as the last item."""
        return self._queue.get()

    def send(self, message: list[Any], payload: bytes | bytearray = b"") -> None:
        """Send a reply, and after it what does not fit into it."""
        import msgpack

        from .model import Fault
        from .terms import MAX_MESSAGE_BYTES

        data: bytes = msgpack.packb(message)
        if len(data) > MAX_MESSAGE_BYTES:
            raise Fault("model", "the names of its inputs and outputs are too long to tell")
        for part in (len(data).to_bytes(HEAD_BYTES, "big") + data, payload):
            view = memoryview(part)
            while view:
                view = view[os.write(self._replies, view[: 2**20]) :]

    def _read(self) -> None:
        import msgpack

        from .terms import EXIT_MEMORY

        status = 0
        try:
            while True:
                size = int.from_bytes(self._exactly(HEAD_BYTES), "big")
                *request, payload = msgpack.unpackb(self._exactly(size))
                if isinstance(payload, int):
                    self.limits.grant(payload)
                    payload = self._exactly(payload)
                self._queue.put([*request, payload])
        except EOFError:
            pass
        except MemoryError:
            status = EXIT_MEMORY
        finally:
            os._exit(status)

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._requests.readinto(view)
            if not count:
                raise EOFError
            view = view[count:]
        return data


def _probe(channel: _Channel) -> None:
    import onnxruntime

    from .numeric import numeric_class

    channel.send(["probed", 0, numeric_class(), onnxruntime.__version__])


def _work(channel: _Channel, raw_terms: list[Any], model_bytes: bytearray) -> None:
    import msgpack

    from .model import Fault, Model
    from .terms import INLINE_BYTES, MAX_REASON_CHARS, Terms
    from .warm import warm_up
    from .work import count_for

    terms = Terms(*raw_terms)
    limits = channel.limits
    warm_up()
    limits.begin(terms)

    def fail(number: int, fault: Fault) -> None:
        reason = "".join(char if char.isprintable() else " " for char in fault.reason)
        reason = reason.encode("utf-8", "replace").decode()[:MAX_REASON_CHARS]
        channel.send(["fault", number, fault.kind, reason])

    # The model lies in private memory here, once as it came and once as it is read.
    limits.grant(2 * len(model_bytes))
    limits.start_cpu(terms.load_cpu_ms)
    try:
        model = Model(lambda: bytes(model_bytes), contrib_ops=terms.contrib_ops)
        limits.stop_cpu()
        channel.send(["ready", 0, model.inputs, model.outputs])
    except Fault as fault:
        fail(0, fault)
        return

    while True:
        number, *asked, bundle = channel.receive()
        if asked:
            # How much work a unit is: before the first one, while the model's bytes are there.
            limits.start_cpu(terms.load_cpu_ms)
            try:
                work = count_for(bytes(model_bytes), msgpack.unpackb(bundle))
            except Fault as fault:
                fail(number, fault)
                return
            finally:
                limits.stop_cpu()
            channel.send(["counted", number, work])
            continue
        model_bytes.clear()
        started = time.process_time()
        limits.start_cpu(terms.cpu_ms)
        try:
            result = model.run(memoryview(bundle), terms.output_bytes)
            limits.grant(len(bundle) + result.size)
            outputs = bytearray(result.size)
            result.write(memoryview(outputs))
        except Fault as fault:
            fail(number, fault)
            continue
        finally:
            limits.stop_cpu()
        cpu_ms = round((time.process_time() - started) * 1000)
        del result
        if len(outputs) <= INLINE_BYTES:
            channel.send(["done", number, bytes(outputs), cpu_ms])
        else:
            channel.send(["done", number, len(outputs), cpu_ms], outputs)


class _Limits:
    """What the system can limit for a process: memory on Linux, CPU time on any Unix."""

    def __init__(self) -> None:
        self._base = 0
        self._memory = 0

    def begin(self, terms: Any) -> None:
        """Count from what the warm runtime holds now, and be polite."""
        if hasattr(os, "nice"):
            os.nice(terms.nice)
        for name in ("SIGXCPU", "SIGPROF"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
        held = _private_bytes()
        if held is not None:
            self._base, self._memory = held, terms.memory_bytes

    def grant(self, extra: int) -> None:
        """Allow ``extra`` bytes more than the job may take: for a bundle or the model itself."""
        if not self._memory:
            return
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        value = self._base + self._memory + extra
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (value, hard))

    def start_cpu(self, cpu_ms: int) -> None:
        """From now on ``cpu_ms`` of CPU time, then the process ends by a signal."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, cpu_ms / 1000)

    def stop_cpu(self) -> None:
        """The unit is done."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)


def _private_bytes() -> int | None:
    """Private, writable memory of this process; ``None`` where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in io.StringIO(status):
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    main()
