"""A node on js-libp2p, written from ``protocol/`` alone, as a guest of real p2pfleet nodes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from p2pfleet.core.model.ids import parse_peer
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.core.model.puzzle import fits
from tests.e2e.local import affine_model, inputs, wait_until
from tests.e2e.small_network import small_network
from tests.interop.guest import guest, missing, node_modules, sources

REASON = missing()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
NETWORK = NetworkFile(NetworkParameters("testnet-interop", testnet=True, puzzle_bits=8))
TERMS = {
    "name": "testnet-interop",
    "testnet": True,
    "owner": None,
    "puzzle_bits": 8,
    "votes_a_subnet": 0,
    "closed": False,
}
UNITS = 6


@pytest.fixture(scope="module")
def modules() -> Path:
    return node_modules()


def test_the_guest_reads_the_vectors_as_the_chapters_want(tmp_path: Path, modules: Path) -> None:
    folder = sources(tmp_path / "js", modules)
    done = subprocess.run(
        ["node", folder / "vectors.mjs", VECTORS],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    checked = {one["file"]: one["cases"] for one in map(json.loads, done.stdout.splitlines())}
    assert min(checked.values()) > 0
    assert sum(checked.values()) > 300


def test_a_js_node_finds_the_network_checks_a_job_and_its_blobs_and_becomes_a_peer(
    tmp_path: Path, modules: Path
) -> None:
    with small_network(tmp_path / "net", network=NETWORK) as net:
        volunteer = net.volunteer()
        bootstrap = volunteer.status()["addresses"][0]
        publisher = net.owner.client.call("status")["peer"]
        folder = sources(tmp_path / "js", modules)
        with guest(folder, {"network": TERMS, "bootstrap": bootstrap}) as js:
            me = js.until("listening")
            assert me["network"] == NETWORK.id.hex()
            assert fits(NETWORK.terms, parse_peer(me["peer"])), "it found a key that fits"

            # It was told of the volunteer alone; the rendezvous key led it to the publisher.
            assert set(js.until("ready")["mesh"]) == {publisher, volunteer.peer}
            assert js.told("provided")[0]["keeper"] in {publisher, volunteer.peer}
            assert [one["peer"] for one in js.told("found")] == [publisher]

            # One volunteer cannot certify alone, so that the job stays open.
            model = affine_model(tmp_path / "affine.onnx", width=512)
            job = net.submit(model, inputs(tmp_path / "x", UNITS, width=512), quorum=2)
            gossiped = js.until("manifest")
            wanted = {
                "job": job, "name": "affine", "publisher": parse_peer(publisher).hex(),
                "units": UNITS,
            }  # fmt: skip
            assert gossiped["by"] == "gossip"
            assert wanted.items() <= gossiped.items()

            js.until("no-blob")
            blobs = {one["blob"]: one for one in js.told("blob")}
            assert set(blobs) == {"table", "model", "pack"}
            assert blobs["model"]["bytes"] == model.stat().st_size
            assert {one["peer"] for one in blobs.values()} == {publisher}
            assert [(one["tensor"], one["shape"]) for one in js.told("range")] == [("x", [2, 512])]
            for client in (net.owner.client, volunteer.client):
                assert not any(
                    one["peer"] == me["peer"] and one["software"] for one in client.call("peers")
                ), "who has not said hello is a connection, and no peer"
            js.greet()

            delivered = js.until("manifest")
            assert delivered["by"] == "summary"
            assert wanted.items() <= delivered.items()
            assert {one["peer"] for one in js.told("greeted")} == {publisher, volunteer.peer}
            for client in (net.owner.client, volunteer.client):
                wait_until(
                    "the guest is one of its peers",
                    lambda client=client: any(
                        (one["peer"], one["software"]) == (me["peer"], "p2pfleet-interop/0")
                        for one in client.call("peers")
                    ),
                )
            assert js.told("reject") == []
            assert js.leave() == 0
        for client in (net.owner.client, volunteer.client):
            wait_until(
                "the guest is gone",
                lambda client=client: all(
                    one["peer"] != me["peer"] for one in client.call("peers")
                ),
            )
