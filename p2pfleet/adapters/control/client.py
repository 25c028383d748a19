"""The blocking side, for the command line: plain sockets, no event loop."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec

from p2pfleet.adapters.control.place import MAX_LINE_BYTES, SOCKET_NAME, socket_path
from p2pfleet.core.errors import ExitCode, P2pfleetError


class ControlClient:
    """Calls methods of the node that runs in ``data_dir``."""

    def __init__(self, data_dir: Path, timeout_s: float = 600.0) -> None:
        self._data_dir = data_dir
        self._timeout_s = timeout_s

    def alive(self) -> bool:
        """Whether a node answers."""
        try:
            self.call("ping")
        except P2pfleetError:
            return False
        return True

    def call(self, method: str, **params: Any) -> Any:
        """The result of ``method``. Raises :class:`P2pfleetError`, also the node's own."""
        request = msgspec.json.encode({"method": method, "params": params}) + b"\n"
        try:
            with (
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
                socket_path(self._data_dir) as path,
            ):
                connection.settimeout(self._timeout_s)
                connection.connect(path)
                connection.sendall(request)
                line = self._read_line(connection)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise P2pfleetError(
                f"No node is running in {self._data_dir}.",
                f"Start one with: p2pfleet run --data-dir {self._data_dir}",
                ExitCode.NO_NODE,
            ) from error
        except TimeoutError as error:
            raise P2pfleetError(
                f"The node in {self._data_dir} did not answer in {self._timeout_s:.0f} s.",
                "See its log, or stop it and start it again.",
                ExitCode.NO_NODE,
            ) from error
        except OSError as error:
            raise P2pfleetError(
                f"The control socket {self._data_dir / SOCKET_NAME} cannot be used: {error}.",
                "Run the command as the user that runs the node.",
                ExitCode.NO_NODE,
            ) from error
        try:
            answer = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise P2pfleetError(
                "The node's answer was cut off.", "See its log; it may have just stopped."
            ) from error
        if "error" in answer:
            problem = answer["error"]
            raise P2pfleetError(
                problem["message"], problem.get("advice", ""), ExitCode(problem.get("code", 1))
            )
        return answer["result"]

    @staticmethod
    def _read_line(connection: socket.socket) -> bytes:
        parts = bytearray()
        while not parts.endswith(b"\n"):
            data = connection.recv(65536)
            if not data or len(parts) > MAX_LINE_BYTES:
                break
            parts += data
        return bytes(parts)
