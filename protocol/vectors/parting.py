"""Vectors of ``shards.md``: which unit is in which shard, and who serves which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from samples import BASE, JOB

from p2pfleet.core.model.ids import PeerId, sha256
from p2pfleet.core.rules import shards as rule

Case = dict[str, Any]
SALT = bytes(range(16))


def shards() -> Iterable[Case]:
    for about, units, count in (
        ("one unit", 1, 1),
        ("one shard", 7, 1),
        ("a unit for each shard", 5, 5),
        ("twelve units in five", 12, 5),
        ("a prime number of units in four", 101, 4),
        ("sixty units in sixteen", 60, 16),
    ):
        yield {
            "about": f"units: {about}", "judged": "units", "salt": SALT.hex(), "units": units,
            "shards": count, "drawn": _drawn(), "shuffle": list(rule.shuffle(SALT, units)),
            "parts": [rule.units_of(SALT, units, count, shard) for shard in range(count)],
        }  # fmt: skip
    for units, count, unit in ((1_000_000, 4_096, 999_999), (999_983, 625, 123_456)):
        yield {
            "about": f"unit {unit} of {units}", "judged": "unit", "salt": SALT.hex(),
            "units": units, "shards": count, "unit": unit, "drawn": _drawn(),
            "shard": rule.shard_of(SALT, units, count, unit),
        }  # fmt: skip
    for name, signer in BASE.items():
        yield {
            "about": f"the order of shards of {name}", "judged": "order", "salt": SALT.hex(),
            "peer": signer.peer.hex(), "ranks": [
                rule.rank(SALT, shard, signer.peer).hex() for shard in range(6)
            ],
            "order": rule.preference(SALT, 6, signer.peer),
        }  # fmt: skip
    peers = [PeerId(sha256(b"volunteer %d" % number)) for number in range(40)]
    for count in (24, 25, 30):
        some = peers[:count]
        yield {
            "about": f"a shard of {count} members", "judged": "full", "salt": SALT.hex(),
            "shard": 3, "members": [
                [peer.hex(), rule.rank(SALT, 3, peer).hex(),
                 not rule.crowded_out(SALT, 3, peer, [p for p in some if p != peer])]
                for peer in some
            ],
            "keepers": [peer.hex() for peer in rule.keepers(SALT, 3, some)],
        }  # fmt: skip
    for about, lacking, volunteers, doublings in (
        ("in a small network", 1, 4, 0),
        ("one more volunteer than are called", 1, 5, 0),
        ("in a network of forty", 1, 40, 0),
        ("two are lacking", 2, 40, 0),
        ("after a step", 1, 40, 1),
        ("after three steps", 1, 40, 3),
        ("after very many", 1, 1_000_000, 100),
    ):
        yield {
            "about": f"called to a starving shard: {about}", "judged": "called",
            "salt": SALT.hex(), "shard": 3, "lacking": lacking, "volunteers": volunteers,
            "doublings": doublings, "peers": [
                [peer.hex(), rule.rank(SALT, 3, peer).hex(),
                 rule.called(SALT, 3, peer, lacking, volunteers, doublings)]
                for peer in peers[:6]
            ],
        }  # fmt: skip
    for open_units, replicas, unit_ms, members_there in (
        (0, 2, 10_000, 0),
        (30, 2, 10_000, 10),
        (30, 2, 10_001, 10),
        (30, 2, 10_000, 6),
        (1_000_000, 8, 86_400_000, 24),
    ):
        yield {
            "about": f"{open_units} open units, {members_there} members", "judged": "lacking",
            "open": open_units, "replicas": replicas, "unit_ms": unit_ms,
            "members": members_there,
            "lacking": rule.lacking(open_units, replicas, unit_ms, members_there),
        }  # fmt: skip
    for shard in (0, 1, 4_095):
        yield {
            "about": f"where those of shard {shard} meet", "judged": "meeting",
            "job": JOB.hex(), "shard": shard, "key": rule.meeting_key(JOB, shard).hex(),
        }  # fmt: skip
    members = {0: 0, 1: 1, 2: 0, 3: 1, 4: 1, 5: 0}
    yield {
        "about": "which starving shard is helped first", "judged": "starving",
        "salt": SALT.hex(), "members": [list(row) for row in members.items()],
        "common": [rule.common_order(SALT, shard).hex() for shard in members],
        "order": rule.most_starving(SALT, members),
    }  # fmt: skip


def _drawn() -> str:
    """What step and start of the shuffle are drawn from."""
    return sha256(b"p2pfleet-shuffle-1:" + SALT).hex()
