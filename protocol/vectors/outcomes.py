"""Vectors of claims, and of the versions in ``volunteers.md``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from samples import ALICE, BOB, CAROL, DAVE, ERIN, MALLORY, SALT

from p2pfleet.core.rules import claims
from p2pfleet.core.rules.consent import version_at_least

Case = dict[str, Any]


def claiming() -> Iterable[Case]:
    for signer, units in ((ALICE, 12), (BOB, 12), (CAROL, 40)):
        yield {
            "about": f"the order of {units} units for one peer",
            "salt": SALT.hex(),
            "units": units,
            "peer": signer.peer.hex(),
            "order": claims.preference(SALT, units, signer.peer),
        }
    peers = [one.peer for one in (ALICE, BOB, CAROL, DAVE, ERIN, MALLORY)]
    for unit in (0, 7, 999_999):
        meetings = []
        for numbers, wanted in (([0, 1, 2], 2), ([0, 1, 2, 3, 4, 5], 1), ([5, 3], 2), ([4], 0)):
            claiming = [peers[number] for number in numbers]
            staying = [
                not claims.gives_way(
                    SALT, unit, peer, [one for one in claiming if one != peer], wanted
                )
                for peer in claiming
            ]
            meetings.append([numbers, wanted, staying])
        yield {
            "about": f"ranks for unit {unit}, and who stays where claims meet",
            "salt": SALT.hex(),
            "unit": unit,
            "ranks": {peer.hex(): claims.rank(SALT, unit, peer).hex() for peer in peers},
            "meetings": meetings,
        }
    yield from leases()


def leases() -> Iterable[Case]:
    """How many units a volunteer holds at once, in ``claims.json``."""
    for about, mean_ms, slots, remaining, volunteers in (
        ("nothing known yet", None, 1, 1000, 3),
        ("nothing known yet, four slots", None, 4, 1000, 3),
        ("two seconds of work", 100, 1, 1000, 3),
        ("two seconds of work for each slot", 500, 4, 1000, 3),
        ("never more than 64", 1, 1, 1000, 3),
        ("but a unit for each slot", 1, 100, 100_000, 3),
        ("slow units", 60_000, 2, 1000, 3),
        ("half a fair share", 10, 1, 100, 5),
        ("half a fair share, rounded up", 10, 1, 101, 5),
        ("alone", 10, 1, 10, 1),
        ("nothing remains", 10, 2, 0, 5),
    ):
        yield {
            "about": f"units held: {about}",
            "mean_ms": mean_ms,
            "slots": slots,
            "remaining": remaining,
            "volunteers": volunteers,
            "held": claims.lease_units(mean_ms, slots, remaining, volunteers),
        }


def versions() -> Iterable[Case]:
    for version, minimum in (
        ("1.32.0", "1.32.0"), ("1.32.0", "1.32.1"), ("1.32.1", "1.32.0"), ("1.32", "1.32.0"),
        ("1.32.0", "1.32"), ("1.32.0", "1"), ("1.9.0", "1.10.0"), ("1.10.0", "1.9.0"),
        ("2.0", "1.999999.999999.999999"), ("1.32.0.1", "1.32.0"), ("1.32.0", "1.32.0.1"),
        ("1.32.0.0.9", "1.32.0.1"), ("1.32.0rc1", "1.32.0"), ("1.32.0.dev20260101", "1.32.0"),
        ("1.32.0.dev20260101", "1.32.0.1"), ("1.32.0+cpu", "1.32"), ("1.32rc1", "1.32.0"),
        ("1.1234567890123", "1.999999"), ("01.032.0", "1.32"), ("1..5", "1.1"), ("1.", "1"),
        ("v1.32.0", "0"), (" 1.32.0", "0"), ("", "0"), ("unknown", "0.0"), ("0", "0.0"),
        ("\u0661.32", "0"),
    ):  # fmt: skip
        fits = version_at_least(version, minimum)
        yield {
            "about": f"{version!a}, asked for {minimum}",
            "version": version,
            "minimum": minimum,
            "fits": fits,
        }
