"""The guard as its parent sees it: started, ordered about, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from typing import IO

import msgspec

from p2pfleet.cli.internet.leftovers import end_all, mark_of
from p2pfleet.cli.internet.orders import (
    MAX_BYTES,
    Answer,
    Built,
    Counted,
    Failed,
    Heal,
    Letter,
    Order,
    Reply,
)
from p2pfleet.cli.processes import ProcessName, name_process
from p2pfleet.core.errors import P2pfleetError

ADVICE = "Run it as root on Linux (in a container: with --privileged)."

_PATIENCE_S = 30.0


class GuardProcess:
    """One guard. May be ordered about by several threads."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._number = 0
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._name: ProcessName | None = None

    @property
    def name(self) -> ProcessName:
        """The process. Raises :class:`P2pfleetError` before and after its time."""
        if self._name is None:
            raise P2pfleetError("the hosts are not up.", "Open the internet first.")
        return self._name

    def open(self) -> None:
        """Start it, and wait until it takes orders."""
        assert self._process is None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_PATIENCE_S)
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
            with theirs:
                self._process = subprocess.Popen(
                    [
                        sys.executable, "-P", "-m", "p2pfleet.cli.internet.guard",
                        str(theirs.fileno()), str(self._seed),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )  # fmt: skip
            self._name = name_process(self._process.pid)
            self.order(Heal())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, and with it every process in its hosts. Twice is once."""
        if self._control is not None:
            self._control.close()
        process, name = self._process, self._name
        if process is not None:
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode != 0 and name is not None:
                # Somebody killed it: what it would have done is ours to do.
                end_all((), mark_of(name), ())
        if self._errors is not None:
            self._errors.close()
        self._control = self._process = self._errors = self._name = None

    def build(self, order: Order) -> Built:
        """What was built. Raises :class:`P2pfleetError`."""
        answer = self.order(order)
        assert isinstance(answer, Built)
        return answer

    def count(self, order: Order) -> Counted:
        """What was counted. Raises :class:`P2pfleetError`."""
        answer = self.order(order)
        assert isinstance(answer, Counted)
        return answer

    def order(self, order: Order) -> Answer:
        """What it answers to an order. Raises :class:`P2pfleetError`."""
        with self._lock:
            answer = self._exchange(order)
        if isinstance(answer, Failed):
            raise P2pfleetError(f"this kernel does not build hosts: {answer.text}.", ADVICE)
        return answer

    def _exchange(self, order: Order) -> Answer:
        control = self._control
        if control is None:
            raise P2pfleetError("the hosts are not up.", "Open the internet first.")
        self._number += 1
        try:
            control.send(msgspec.json.encode(Letter(self._number, order)))
            while data := control.recv(MAX_BYTES):
                reply = msgspec.json.decode(data, type=Reply)
                # An answer to an earlier one was not waited for, since a signal came in between.
                if reply.number == self._number:
                    return reply.answer
        except OSError as error:
            raise self._ended(f"does not answer ({error})") from error
        raise self._ended("has ended")

    def _ended(self, how: str) -> P2pfleetError:
        """What became of it, with the last line that it wrote."""
        said = b""
        if self._errors is not None:
            said = os.pread(self._errors.fileno(), 65_536, 0).strip().rpartition(b"\n")[2]
        text = said.decode("utf-8", "replace")
        return P2pfleetError(
            f"the process that carries the packets between the hosts {how}"
            f"{': ' + text if text else ''}.",
            "Every host is gone with it; run this again.",
        )
