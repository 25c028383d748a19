"""Garbage at the door of a running node: it lives, says what it refused, and goes on working."""

from __future__ import annotations

import random
import socket
import struct
from pathlib import Path

import pytest

from tests.e2e.local import (
    affine_model,
    document,
    finished,
    inputs,
    node,
    publisher,
    running_testnet,
    wait_until,
)

pytestmark = pytest.mark.e2e


def cases() -> list[bytes]:
    """What a stranger may throw at a TCP port, a hundred times."""
    rng = random.Random(5)
    handshake = b"\x13/multistream/1.0.0\n"
    fixed = [
        b"", b"\x00", b"\xff" * 50, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", handshake,
        handshake + b"\x07/noise\n", handshake + b"\x07/noise\n" + b"\x00\x10" + b"\xff" * 16,
        handshake + b"\x11/plaintext/2.0.0\n", b"\xff\xff\xff\xff\x0f" + b"a" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        struct.pack(">I", 2**31) + b"x" * 1000, handshake * 50,
        handshake + b"\x07/noise\n" + struct.pack(">H", 65535) + rng.randbytes(65535),
    ]  # fmt: skip
    noise = [rng.randbytes(rng.randrange(1, 4096)) for _ in range(60)]
    after = [handshake + b"\x07/noise\n" + rng.randbytes(rng.randrange(1, 600)) for _ in range(27)]
    return fixed + noise + after


def test_a_node_survives_garbage_at_its_port_and_says_what_it_refused(tmp_path: Path) -> None:
    with running_testnet(tmp_path / "NET", nodes=2) as net:
        data_dir = tmp_path / "victim"
        with (
            node(
                data_dir, "run", "--network", net.network, "--data-dir", data_dir, "--debug",
                "--listen", "/ip4/127.0.0.1/tcp/0",
            ) as victim,
            publisher(tmp_path / "publisher", net.network) as owner,
        ):  # fmt: skip
            status = victim.client.call("status")
            port = int(status["addresses"][0].split("/")[4])
            for data in cases():
                with socket.create_connection(("127.0.0.1", port), timeout=5) as attacker:
                    attacker.settimeout(0.05)
                    try:
                        attacker.sendall(data)
                        attacker.recv(4096)
                    except OSError:
                        pass  # hung up on, or left waiting: both are fine
            assert victim.client.call("ping")["pid"] == status["pid"]
            assert victim.log().count("DEBUG") > 0
            wait_until("it said what it refused", lambda: "refused" in victim.log().lower())
            assert "Traceback" not in victim.log()

            # It still is a full member: a quorum of three needs it.
            wait_until("it has peers", lambda: victim.client.call("status")["peers"] >= 2)
            model = affine_model(tmp_path / "model.onnx")
            files = [str(path) for path in inputs(tmp_path / "in", 2)]
            job = owner.client.call(
                "submit", model=str(model), inputs=files, name="after", quorum=3
            )["job"]
            assert finished(owner.client, job)["settled"] == 2
            assert document("status", "--data-dir", data_dir)["executed"] == 2
