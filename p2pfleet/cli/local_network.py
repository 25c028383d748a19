"""A network of real node processes on this machine, for trying things.

``DIR/network.toml`` is the network, ``DIR/node-N/`` the data folder of node N with its log,
``DIR/testnet.json`` who was started. The latter is written after every start, so that whatever
happens to the starting command, ``down`` finds all of them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from p2pfleet.adapters.control.client import ControlClient
from p2pfleet.cli.folders import make_folder
from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.processes import (
    ProcessName,
    is_alive,
    name_process,
    signal_session,
    stop_processes,
)
from p2pfleet.config.network_file import NETWORK_FILE, load_network, save_network
from p2pfleet.config.toml_file import write_file
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.network import NetworkFile, NetworkParameters

# -P: a numpy.py in the folder that we were called from is none of our business.
PROGRAM = (sys.executable, "-P", "-m", "p2pfleet.cli.main")
RECORD_FILE = "testnet.json"
LOG_FILE = "node.log"
MAX_NODES = 200
MAX_RECORD_BYTES = 2**20
PEERS_WANTED = 4
STOP_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.2
_ASK_TIMEOUT_S = 10.0
_TAIL_LINES = 8
_TAIL_BYTES = 8192

Note = Callable[[str], None]


class NodeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node: its process (``None`` once stopped), and what it said of itself when it was up.

    A ``publisher`` runs no units.
    """

    number: int
    liar: bool
    process: ProcessName | None = None
    peer: str = ""
    address: str = ""
    publisher: bool = False


@dataclass(frozen=True)
class Seat:
    """Where a node runs: the address and the port (0: any) that it listens on, and what makes of a
    command the one that runs it there."""

    address: str = "127.0.0.1"
    port: int = 0
    command: Callable[[Sequence[str]], list[str]] = list


HERE = Seat()


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nodes: tuple[NodeRecord, ...]
    version: int = 1


class LocalNetwork:
    """The network in ``directory``. One command at a time starts or stops nodes there."""

    def __init__(self, directory: Path, note: Note) -> None:
        self.directory = directory.expanduser().absolute()
        self._note = note
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._commands: dict[int, list[str]] = {}
        self.nodes: tuple[NodeRecord, ...] = self._load()

    @property
    def network_file(self) -> Path:
        return self.directory / NETWORK_FILE

    def folder(self, number: int) -> Path:
        """The data folder of a node."""
        return self.directory / f"node-{number}"

    def log(self, number: int) -> Path:
        return self.folder(number) / LOG_FILE

    # ---- up ------------------------------------------------------------------------------

    def up(
        self,
        nodes: int,
        liars: int,
        interruptions: Interruptions,
        *,
        slots: int = 1,
        while_we_live: bool = False,
        seats: Sequence[Seat] = (),
        peers: int = PEERS_WANTED,
    ) -> None:
        """Start ``nodes`` volunteers, the last ``liars`` of them lying; return when all are up and
        each sees ``peers`` others.

        Node 0 is also the bootstrap node. An earlier network in the folder is continued: same
        name, same identities. ``while_we_live`` ends the nodes with this process, however it
        ends. ``seats`` says where they run, if not on the loopback device. Whatever goes wrong,
        everything that was started is stopped again.
        """
        seats = seats or (HERE,) * nodes
        with self._locked():
            self.nodes = self._load()
            if any(node.process is not None and is_alive(node.process) for node in self.nodes):
                raise P2pfleetError(
                    f"a testnet runs in {self.directory} already.",
                    f"Stop it first: p2pfleet testnet down --dir {self.directory}",
                )
            parameters, port = self._earlier()
            network = NetworkFile(parameters)
            save_network(self.network_file, network)
            self.nodes = self.nodes[:0]
            try:
                first = seats[0] if seats[0].port else replace(seats[0], port=port)
                options = ["--slots", str(slots), *(["--while-stdin"] if while_we_live else [])]
                self._start(0, liars >= nodes, interruptions, options, first)
                self._wait_until_up(1, 0, time.monotonic() + 120)
                bootstrap = NetworkFile(
                    network.parameters, tuple(node.address for node in self.nodes)
                )
                save_network(self.network_file, bootstrap)
                for number in range(1, nodes):
                    liar = number >= nodes - liars
                    self._start(number, liar, interruptions, options, seats[number])
                deadline = time.monotonic() + 120 + 15 * nodes
                self._wait_until_up(nodes, min(nodes - 1, peers), deadline)
            except BaseException:
                with interruptions.held():
                    self._stop()
                raise

    def add_publisher(self, interruptions: Interruptions, seat: Seat = HERE) -> int:
        """Start one more node, which publishes and ends with this process; its number."""
        number = len(self.nodes)
        with self._locked():
            options = ["--slots", "0", "--while-stdin"]
            self._start(number, False, interruptions, options, seat, "publisher")
            self._wait_until_up(number + 1, 0, time.monotonic() + 120)
        return number

    def _earlier(self) -> tuple[NetworkParameters, int]:
        """The network and the port of node 0 to use: the earlier ones where there are any."""
        if not self.network_file.exists():
            return NetworkParameters(f"testnet-{secrets.token_hex(4)}", testnet=True), 0
        network = load_network(self.network_file)
        if not network.parameters.testnet:
            raise P2pfleetError(
                f"{self.network_file} is no testnet's, so no testnet is started there.",
                "Choose another --dir.",
                ExitCode.USAGE,
            )
        port = 0
        for address in network.bootstrap[:1]:
            with suppress(ValueError, IndexError):
                port = int(address.split("/")[4])
        # Publishers remember the bootstrap address, so it should stay if it can.
        return network.parameters, port if port and _is_free(port) else 0

    def _start(
        self,
        number: int,
        liar: bool,
        interruptions: Interruptions,
        options: list[str],
        seat: Seat,
        role: str = "volunteer",
    ) -> None:
        folder = self.folder(number)
        make_folder(folder)
        command = [
            *PROGRAM, "testnet", "node",
            "--data-dir", str(folder), "--network", str(self.network_file),
            "--role", role, *options,
        ]  # fmt: skip
        command += ["--role", "bootstrap"] if number == 0 else []
        command += ["--liar"] if liar else []
        self._commands[number] = seat.command(command)
        record = NodeRecord(number, liar, publisher=role == "publisher")
        self._spawn(record, f"/ip4/{seat.address}/tcp/{seat.port}", interruptions)

    def _spawn(self, record: NodeRecord, listen: str, interruptions: Interruptions) -> None:
        """Start the process of a node, and write down which it is."""
        number = record.number
        command = [*self._commands[number], "--listen", listen]
        stdin = subprocess.PIPE if "--while-stdin" in command else subprocess.DEVNULL
        log = os.open(self.log(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            with interruptions.held():
                child = subprocess.Popen(
                    command, stdin=stdin, stdout=log, stderr=log, start_new_session=True
                )
                self._children[number] = child
                started = msgspec.structs.replace(record, process=name_process(child.pid))
                others = [node for node in self.nodes if node.number != number]
                self.nodes = tuple(sorted([*others, started], key=lambda node: node.number))
                self._save()
        finally:
            os.close(log)

    def _wait_until_up(self, nodes: int, peers: int, deadline: float) -> None:
        """Wait until all ``nodes`` answer and each sees ``peers`` others."""
        told = ""
        while True:
            answered, ready = 0, 0
            for node in self.nodes:
                self._check_runs(node)
                status = self.ask(node.number, "status")
                if status is None:
                    continue
                answered += 1
                ready += int(status["peers"]) >= peers
                self._learn(node.number, status)
            if ready == nodes:
                return
            text = f"{answered} of {nodes} nodes are up, {ready} connected"
            if nodes > 1 and text != told:
                self._note(text)
                told = text
            if time.monotonic() >= deadline:
                late = next(
                    node.number for node in self.nodes if not self._is_ready(node.number, peers)
                )
                raise P2pfleetError(
                    f"{nodes - ready} of {nodes} nodes did not get ready in time; "
                    f"the log of node {late} ends:\n{self._tail(late)}\n",
                    f"See {self.log(late)}, or try fewer nodes: this machine may be too busy.",
                )
            time.sleep(_LOOK_EVERY_S)

    def _is_ready(self, number: int, peers: int) -> bool:
        status = self.ask(number, "status")
        return status is not None and int(status["peers"]) >= peers

    def _check_runs(self, node: NodeRecord) -> None:
        child = self._children.get(node.number)
        code = child.poll() if child is not None else None
        if code is None:
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise P2pfleetError(
            f"node {node.number} ended at its start ({how}); its log ends:\n"
            f"{self._tail(node.number)}\n",
            f"The whole log: {self.log(node.number)}",
        )

    def _learn(self, number: int, status: dict[str, Any]) -> None:
        """Note who the node is, once it can say so."""
        addresses = status["addresses"]
        updated = tuple(
            msgspec.structs.replace(node, peer=status["peer"], address=addresses[0])
            if node.number == number and addresses
            else node
            for node in self.nodes
        )
        if updated != self.nodes:
            self.nodes = updated
            self._save()

    def _tail(self, number: int) -> str:
        try:
            with self.log(number).open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
                text = stream.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError as error:
            return f"    (cannot be read: {error.strerror or error})"
        lines = text.splitlines()[-_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it is empty)"

    # ---- what happens to nodes -----------------------------------------------------------

    def signal(self, number: int, what: signal.Signals) -> None:
        """Signal a node's process, and whatever it started; nothing happens if it is gone."""
        process = self.nodes[number].process
        if process is not None:
            signal_session(process, what)

    def restart(self, number: int, interruptions: Interruptions) -> None:
        """Start a node that was started here anew, at its address; one that runs is killed."""
        with self._locked():
            child = self._children[number]
            self.signal(number, signal.SIGKILL)
            child.wait(STOP_PATIENCE_S)
            if child.stdin is not None:
                child.stdin.close()
            record = self.nodes[number]
            self._spawn(record, record.address.partition("/p2p/")[0], interruptions)

    # ---- status and down -----------------------------------------------------------------

    def ask(self, number: int, method: str, **params: Any) -> Any:
        """What a node answers over its control socket, or ``None`` if it does not."""
        try:
            return ControlClient(self.folder(number), _ASK_TIMEOUT_S).call(method, **params)
        except P2pfleetError:
            return None

    def down(self, interruptions: Interruptions) -> int:
        """Stop every node that runs; how many that were. Stopping twice is stopping once."""
        if not (self.directory / RECORD_FILE).exists():
            return 0
        with self._locked(), interruptions.held():
            self.nodes = self._load()
            return self._stop()

    def _stop(self) -> int:
        running = [
            node.process
            for node in self.nodes
            if node.process is not None and is_alive(node.process)
        ]
        for process in running:
            signal_session(process, signal.SIGCONT)  # who is frozen could not stop
        stop_processes(running, STOP_PATIENCE_S, self._note)
        for child in self._children.values():
            if child.stdin is not None:
                child.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_PATIENCE_S)
        self._children.clear()
        self.nodes = tuple(msgspec.structs.replace(node, process=None) for node in self.nodes)
        self._save()
        return len(running)

    # ---- the record ----------------------------------------------------------------------

    def _save(self) -> None:
        text = msgspec.json.format(msgspec.json.encode(_Record(self.nodes)), indent=1)
        write_file(self.directory / RECORD_FILE, text.decode("utf-8") + "\n")

    def _load(self) -> tuple[NodeRecord, ...]:
        path = self.directory / RECORD_FILE
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_RECORD_BYTES)
            return msgspec.json.decode(data, type=_Record).nodes
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise P2pfleetError(
                f"{path} cannot be read: {error.strerror or error}.", "Check its permissions."
            ) from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise P2pfleetError(
                f"{path} is damaged: {error}.",
                "If nodes of it still run, end them by hand (ps shows 'testnet node'); then remove "
                "the file.",
                ExitCode.DAMAGED,
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self.directory)
        descriptor = os.open(self.directory / "testnet.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise P2pfleetError(
                    f"another command is starting or stopping the testnet in {self.directory}.",
                    "Wait for it, or stop it.",
                ) from error
            yield
        finally:
            os.close(descriptor)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
