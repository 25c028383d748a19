"""Vectors of ``credit.md``: what units earn, who earns it, and which receipts are taken."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import msgspec

from p2pfleet.core.errors import Accept
from p2pfleet.core.model.ids import PeerId, cid_of, peer_text, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits
from p2pfleet.core.model.network import NetworkParameters, network_id, network_terms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules import credit as rule
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import WORK_MAX, Manifest, Receipt, job_id
from p2pfleet.runtime.signing import Signer

Case = dict[str, Any]
DAY_MS = 24 * 3600 * 1000
ISSUED_MS = 1_800_000_000_000
PUBLISHER, ALICE, BOB, MALLORY = (
    Signer(sha256(b"p2pfleet vectors: " + name.encode()))
    for name in ("publisher", "alice", "bob", "mallory")
)
NETWORK = NetworkParameters("vectors", True)


def _puzzling() -> NetworkParameters:
    """The first network of its kind that the publisher's key does not fit."""
    for number in count():
        found = NetworkParameters(f"credit-{number}", True, None, 4)
        if not fits(network_terms(found), PUBLISHER.peer):
            return found
    raise AssertionError


def crediting() -> Iterable[Case]:
    yield from _units()
    yield from _earners()
    yield from _receipts()


def _units() -> Iterable[Case]:
    minute = 60_000
    for about, work, units, lease_ms, elapsed_ms in (
        ("no bonus where nothing was measured", 1_000_000, 10, minute, None),
        ("nothing counted counts as 1", 0, 10, minute, None),
        ("1, twice as quick as can be", 1, 10, minute, 0),
        ("at once", 1_000_000, 10, minute, 0),
        ("after a millisecond", 1_000_000, 10, minute, 1),
        ("the last millisecond of the ceiling", 1_000_000, 10, minute, 11_250),
        ("the first below it", 1_000_000, 10, minute, 11_251),
        ("well below it", 1_000_000, 10, minute, 11_262),
        ("half as much again", 1_000_000, 10, minute, 20_000),
        ("a bonus that rounds to nothing", 1_000_000, 10, minute, 44_955),
        ("the smallest bonus", 1_000_000, 10, minute, 44_910),
        ("three quarters of the lease", 1_000_000, 10, minute, 45_000),
        ("as long as the lease", 1_000_000, 10, minute, minute),
        ("for ever", 1_000_000, 10, minute, 2**53 - 1),
        ("credit is rounded down", 1_001, 10, minute, 20_001),
        ("the shortest lease", 7_777_777, 10, 1_000, 300),
        ("the longest lease", 7_777_777, 10, DAY_MS, 12_345_678),
        ("the most work, one unit", 2**53 - 1, 1, minute, 0),
        ("the most work that fits 512 units", 2**53 - 1, 512, minute, 0),
        ("work that is cut to what fits", 2**53 - 1, 513, minute, 0),
        ("the most units of the most work", 2**53 - 1, 1_000_000, minute, None),
    ):  # fmt: skip
        yield {
            "about": f"unit: {about}",
            "judged": "unit",
            "work": work,
            "units": units,
            "lease_ms": lease_ms,
            "elapsed_ms": elapsed_ms,
            "base": rule.base(work, units),
            "bonus_milli": rule.bonus_milli(lease_ms, elapsed_ms),
            "credit": rule.earned(work, units, lease_ms, elapsed_ms),
        }


def _earners() -> Iterable[Case]:
    for about, voters, right, wrong in (
        ("everybody in the certificate", "BA", "", ""),
        ("nobody, where the publisher's word stands alone", "", "", ""),
        ("and who was found right besides", "A", "C", ""),
        ("each once", "AA", "A", ""),
        ("not who was found wrong", "AB", "", "B"),
        ("not even if the certificate names it and it was found right before", "AB", "B", "B"),
        ("nobody for being wrong", "A", "", "BC"),
    ):
        groups = [[PeerId(one.encode()) for one in group] for group in (voters, right, wrong)]
        yield {
            "about": f"earners: {about}",
            "judged": "earners",
            "voters": list(voters),
            "right": list(right),
            "wrong": list(wrong),
            "earners": [one.decode() for one in rule.earners(*groups)],
        }


def _manifest(units: int, work: int) -> Manifest:
    return Manifest(
        network=network_id(NETWORK), publisher=PUBLISHER.peer, name="a job", model=cid_of(b""),
        model_bytes=0, table=cid_of(b""), table_bytes=0, units=units, total_bytes=0,
        limits=Limits(2**20, 1, 1), comparison=Exact(), stop=FixedQuorum(2, 5), shards=1,
        lease_ms=60_000, issued_ms=ISSUED_MS, expires_ms=ISSUED_MS + DAY_MS, salt=bytes(16),
        work=work,
    )  # fmt: skip


def _receipts() -> Iterable[Case]:
    replace = msgspec.structs.replace
    job = _manifest(8, 1_000)
    good = Receipt(
        network=job.network, job=job_id(PUBLISHER.seal(job)), publisher=PUBLISHER.peer,
        peer=ALICE.peer, number=4, units=3, work=3_000, credit=4_500, issued_ms=ISSUED_MS + 9,
    )  # fmt: skip
    huge = _manifest(1_000_000, 2**53 - 1)
    worth = WORK_MAX // 1_000_000
    most = replace(good, units=1_000_000, work=10**6 * worth, credit=2 * 10**6 * worth)
    puzzling = _puzzling()
    elsewhere = network_id(NetworkParameters("elsewhere", True))
    held = [3, 2, 2_000, 2_000]
    for about, verdict, receipt, manifest, before in (
        ("the first", "accept", good, job, None),
        ("a later one", "accept", good, job, held),
        ("nothing but its number is new", "accept", good, job, [3, 3, 3_000, 4_500]),
        ("a single unit", "accept", replace(good, units=1, work=1_000, credit=1_000), job, None),
        ("more units for little more", "accept", good, job, [3, 2, 2_000, 4_000]),
        ("number 0", "accept", replace(good, number=0), job, None),
        ("no bonus at all", "accept", replace(good, credit=3_000), job, None),
        ("as much bonus as there is", "accept", replace(good, credit=6_000), job, None),
        ("every unit of the job", "accept",
         replace(good, units=8, work=8_000, credit=8_000), job, None),
        ("the most that a receipt can say", "accept", most, huge, None),
        ("another network", "reject network", replace(good, network=elsewhere), job, None),
        ("a publisher whose key does not fit", "reject puzzle",
         replace(good, network=network_id(puzzling)), job, None),
        ("for somebody else", "reject peer", replace(good, peer=BOB.peer), job, None),
        ("for somebody else, of an unknown job", "reject peer", replace(good, peer=BOB.peer), None,
         None),
        ("by oneself", "reject own", replace(good, publisher=ALICE.peer), job, None),
        ("of an unknown job", "ignore job", good, None, None),
        ("of an unknown job, by whomever", "ignore job", replace(good, publisher=MALLORY.peer),
         None, None),
        ("by somebody else than the job's publisher", "reject publisher",
         replace(good, publisher=MALLORY.peer), job, None),
        ("more units than there are", "reject units",
         replace(good, units=9, work=9_000, credit=9_000), job, None),
        ("too much work", "reject work", replace(good, work=3_001), job, None),
        ("too little work", "reject work", replace(good, work=2_999), job, None),
        ("less credit than work", "reject credit", replace(good, credit=2_999), job, None),
        ("more than twice as much", "reject credit", replace(good, credit=6_001), job, None),
        ("too much, and known", "reject credit", replace(good, credit=6_001), job, [9, 1, 1, 1]),
        ("the same again", "ignore known", good, job, [4, 3, 3_000, 4_500]),
        ("another of the same number", "ignore known", good, job, [4, 2, 2_000, 2_000]),
        ("an older one", "ignore known", good, job, [5, 2, 2_000, 2_000]),
        ("fewer units than before", "ignore less", good, job, [3, 4, 4_000, 4_000]),
        ("less credit than before", "ignore less", good, job, [3, 3, 3_000, 4_501]),
    ):  # fmt: skip
        network = puzzling if verdict == "reject puzzle" else NETWORK
        signer = {one.peer: one for one in (PUBLISHER, ALICE, MALLORY)}[receipt.publisher]
        sealed = signer.seal(receipt)
        known = None
        if before is not None:
            number, units, work, credit = before
            known = replace(receipt, number=number, units=units, work=work, credit=credit)
        terms = network_terms(network)
        judged = rule.judge_receipt(receipt, ALICE.peer, manifest, known, terms)
        assert type(judged).__name__.lower() == verdict.split()[0], (about, judged)
        assert isinstance(judged, Accept) == (verdict == "accept")
        yield {
            "about": f"receipt: {about}",
            "judged": "receipt",
            "receipt": encode(sealed).hex(),
            "hash": sealed.hash.hex(),
            "network": described_network(network),
            "me": peer_text(ALICE.peer),
            "job": None
            if manifest is None
            else {
                "publisher": peer_text(manifest.publisher),
                "units": manifest.units,
                "work": manifest.work,
            },
            "held": before,
            "verdict": verdict,
        }


def described_network(network: NetworkParameters) -> Case:
    """The parameters of a network that nobody owns, by name."""
    assert network.owner is None
    names = network.__struct_fields__
    return {name: getattr(network, name) for name in names}
