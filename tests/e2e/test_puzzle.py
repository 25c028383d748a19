"""Real nodes of a network whose identities cost work, and one whose key has none in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from p2pfleet import app
from p2pfleet.adapters.store import load_or_create_identity, peer_of
from p2pfleet.app import SubmitRequest, open_node
from p2pfleet.config.node_file import NodeConfig
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import PeerId, parse_peer, peer_text
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.core.model.puzzle import fits
from p2pfleet.resources import resource_path

pytestmark = pytest.mark.e2e

NETWORK = NetworkFile(NetworkParameters("testnet-puzzle", testnet=True, puzzle_bits=8))
DIGITS = resource_path("testnet", "jobs", "digits")


def config(folder: Path, *, bootstrap: tuple[str, ...] = (), slots: int = 1) -> NodeConfig:
    return NodeConfig(
        data_dir=folder,
        network=NETWORK,
        listen=("/ip4/127.0.0.1/tcp/0",),
        bootstrap=bootstrap,
        roles=("volunteer",) if slots else ("publisher",),
        slots=slots,
    )


class Refusals(logging.Handler):
    """Hears what nodes hold against those who speak to them, as it happens."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard = {what: trio.Event() for what in ("peer", "author")}

    def emit(self, record: logging.LogRecord) -> None:
        for what, event in self.heard.items():
            if f"the {what}'s key does not fit the network" in record.getMessage():
                event.set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("p2pfleet")
        before = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logger.setLevel(before)
            logger.removeHandler(self)


def unfitting_identity(path: Path) -> PeerId:
    """An identity file whose key does not fit; most do not."""
    while True:
        peer = peer_of(load_or_create_identity(path))
        if not fits(NETWORK.terms, peer):
            return peer
        path.unlink()


def any_identity(path: Path, *_: object) -> bytes:
    return load_or_create_identity(path)


def request() -> SubmitRequest:
    return SubmitRequest(
        model=str(DIGITS / "digits.onnx"),
        inputs=(str(DIGITS / "digits.npz"),),
        name="wanted",
        split="0:600",
        quorum=1,
    )


def test_a_node_whose_key_does_not_fit_is_refused_and_its_votes_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger_peer = unfitting_identity(tmp_path / "stranger" / "identity.key")

    async def main() -> None:
        refusals = Refusals()
        with trio.fail_after(90), refusals.listening():
            async with open_node(config(tmp_path / "publisher", slots=0)) as publisher:
                bootstrap = publisher.addresses[:1]
                # A node that does not care whether its own key fits, as an attacker's would.
                with monkeypatch.context() as careless:
                    careless.setattr(
                        app,
                        "load_or_create_identity",
                        lambda path, *_: load_or_create_identity(path),
                    )
                    context = open_node(config(tmp_path / "stranger", bootstrap=bootstrap))
                    await context.__aenter__()
                try:
                    await refusals.heard["peer"].wait()
                    job = await publisher.submit(request())
                    await refusals.heard["author"].wait()
                    found = publisher.job(job)
                    assert found["state"] == "active"
                    assert (found["certified"], found["settled"]) == (0, 0)
                    connected = [one["peer"] for one in publisher.peers()]
                    assert connected == [peer_text(stranger_peer)]
                    assert publisher.status()["peers"] == 0, "connected, but not one of us"
                    async with open_node(
                        config(tmp_path / "volunteer", bootstrap=bootstrap)
                    ) as volunteer:
                        while publisher.job(job)["state"] == "active":
                            await publisher.wait_changed()
                        fitting = parse_peer(str(volunteer.status()["peer"]))
                        assert fits(NETWORK.terms, fitting)
                    found = publisher.job(job)
                    assert (found["state"], found["settled"]) == ("completed", found["units"])
                    records = {one["peer"] for one in publisher.reputation(None)}
                    assert peer_text(stranger_peer) not in records
                finally:
                    await context.__aexit__(None, None, None)

    trio.run(main)


def test_a_node_does_not_start_with_an_identity_that_does_not_fit(tmp_path: Path) -> None:
    unfitting_identity(tmp_path / "identity.key")

    async def main() -> None:
        async with open_node(config(tmp_path)):
            raise AssertionError("the node should not have started")

    with pytest.raises(P2pfleetError, match="does not fit the network"):
        trio.run(main)


def test_a_node_that_is_cancelled_while_it_makes_its_identity_leaves_none(tmp_path: Path) -> None:
    hard = NetworkFile(NetworkParameters("testnet-hard", testnet=True, puzzle_bits=40))
    asked = NodeConfig(tmp_path, hard, ("/ip4/127.0.0.1/tcp/0",), (), ("publisher",), 0)

    async def main() -> None:
        with trio.fail_after(20), trio.move_on_after(0.3) as waiting:
            async with open_node(asked):
                raise AssertionError("the node should not have started")
        assert waiting.cancelled_caught

    trio.run(main)
    assert not (tmp_path / "identity.key").exists()
