"""A closed network of real processes: members, a newcomer with an invitation, a stranger."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfleet.adapters.store import load_or_create_identity, peer_of
from p2pfleet.cli.folders import set_up
from p2pfleet.config.network_file import load_network, save_network
from p2pfleet.core.model.ids import peer_text
from tests.e2e.local import NodeProcess, document, node, wait_until

pytestmark = pytest.mark.e2e

LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0")
REACTION_S = 15.0


def publisher(folder: Path) -> contextlib.AbstractContextManager[NodeProcess]:
    return node(folder, "run", "--profile", "publisher", "--data-dir", folder, *LISTEN)


def status(running: NodeProcess) -> Any:
    return running.client.call("status")


def test_an_invitation_lets_one_machine_in_while_the_owner_is_away_and_strangers_stay_out(
    tmp_path: Path,
) -> None:
    file, owner = tmp_path / "network.toml", tmp_path / "owner"
    document(
        "network", "create", file, "--name", "lab", "--testnet", "--closed", "--data-dir", owner
    )
    assert file.stat().st_mode & 0o777 == 0o600

    def peer(name: str) -> str:
        set_up(tmp_path / name, "publisher", load_network(file))
        return peer_text(peer_of(load_or_create_identity(tmp_path / name / "identity.key")))

    first, second, _ = map(peer, ("first", "second", "stranger"))
    document("network", "members", "add", file, first, second, "--data-dir", owner)

    def bootstrap(address: str) -> None:
        known = load_network(file)
        save_network(file, msgspec.structs.replace(known, bootstrap=(address,)))
        for name in ("first", "second", "stranger"):
            (tmp_path / name / "network.toml").write_bytes(file.read_bytes())

    bootstrap("/ip4/127.0.0.1/tcp/1/p2p/" + first)  # nobody is there yet
    with publisher(tmp_path / "first") as one:
        bootstrap(status(one)["addresses"][0])
        invitation = document("network", "invite", file, "--name", "LAB-PC-7", "--data-dir", owner)[
            "invitation"
        ]
        # From here on nothing of the owner runs, and its key is used by nobody.
        with contextlib.ExitStack() as stack:
            with ThreadPoolExecutor() as pool:
                joining = pool.submit(
                    document, "network", "join", invitation, "--data-dir", tmp_path / "third"
                )
                two = stack.enter_context(publisher(tmp_path / "second"))
                third = joining.result()["peer"]
            three = stack.enter_context(publisher(tmp_path / "third"))

            def everybody() -> bool:
                return [status(each)["peers"] for each in (one, three)] == [2, 2]

            wait_until("the newcomer meets both members", everybody, REACTION_S)
            assert status(three)["network"]["member"]
            rows = document("network", "members", "list", "--data-dir", tmp_path / "second")
            assert {"peer": third, "name": "LAB-PC-7", "admitted": True, "how": "invited"} in (
                rows["members"]
            )

            with publisher(tmp_path / "stranger") as stranger:
                wait_until(
                    "the stranger is refused",
                    lambda: status(one)["network"]["refused"].get("not a member"),
                    REACTION_S,
                )
                assert status(stranger)["peers"] == 0
                assert not status(stranger)["network"]["member"]
            # The owner comes back, and changes its mind.
            removed = document("network", "members", "remove", file, third, "--data-dir", owner)[
                "changed"
            ]
            assert [row["admitted"] for row in removed] == [False]
            (tmp_path / "second" / "network.toml").write_bytes(file.read_bytes())
            two.client.call("reload_network")

            def parted() -> bool:
                return [status(each)["peers"] for each in (one, three)] == [1, 0]

            wait_until("the removed one is out", parted, REACTION_S)
            assert "removed" in status(three)["network"]["outside"]
