"""Vectors of ``identity.md`` and ``jobs.md``: what is taken, ignored, rejected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import framing
import msgspec
from canonical import untagged, verdict_text
from samples import (
    ALICE,
    BASE,
    BOB,
    JOB,
    MALLORY,
    MANIFEST,
    NETWORK,
    OTHER_NETWORK,
    OWNED_NETWORK,
    OWNER,
    PUBLISHER,
    PUZZLE_NETWORK,
    RECORD,
    REQUIREMENT,
    TABLE,
    frame,
)

from p2pfleet.core.model import puzzle
from p2pfleet.core.model.ids import (
    Cid,
    cid_of,
    sha256,
)
from p2pfleet.core.model.job import Confidence, FixedQuorum, UnitTable
from p2pfleet.core.model.network import NetworkParameters, network_id, network_terms
from p2pfleet.core.rules import admission
from p2pfleet.core.rules.consent import judge_requirement
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Claim,
    Closure,
    job_id,
)

Case = dict[str, Any]


def _network(network: NetworkParameters) -> Case:
    return untagged(network)


def puzzles() -> Iterable[Case]:
    """The key of each name on a network without a puzzle, on one with, and on a copy of it."""
    copied = msgspec.structs.replace(PUZZLE_NETWORK, puzzle_bits=5)
    for network in (NETWORK, PUZZLE_NETWORK, copied):
        terms = network_terms(network)
        for name, signer in BASE.items():
            yield {
                "about": f"the key of {name} on network {network.name}, {terms.puzzle_bits} bits",
                "key": signer.peer.hex(),
                "network": _network(network),
                "network_id": terms.id.hex(),
                "digest": sha256(puzzle.PREFIX + terms.id + signer.peer).hex(),
                "zero_bits": puzzle.work(terms.id, signer.peer),
                "fits": puzzle.fits(terms, signer.peer),
            }


def records() -> Iterable[Case]:
    replace = msgspec.structs.replace
    issued, expires = RECORD.issued_ms, RECORD.expires_ms
    day = 24 * 3600 * 1000
    puzzling = replace(RECORD, network=network_id(PUZZLE_NETWORK))
    bobs = replace(puzzling, peer=BOB.peer)
    for about, check, record, network, wall_ms in (
        ("in time", "", RECORD, NETWORK, issued),
        ("a key that fits", "", puzzling, PUZZLE_NETWORK, issued),
        ("a key that does not fit", "puzzle", bobs, PUZZLE_NETWORK, issued),
        ("a key that does not fit, and expired", "puzzle", bobs, PUZZLE_NETWORK, expires * 2),
        ("a key that does not fit the network it does not name", "network",
         replace(bobs, network=network_id(NETWORK)), PUZZLE_NETWORK, issued),
        ("another network", "network", RECORD, OTHER_NETWORK, issued),
        ("expires when issued", "order", replace(RECORD, expires_ms=issued), NETWORK, issued),
        ("a day", "", replace(RECORD, expires_ms=issued + day), NETWORK, issued),
        ("a millisecond more", "life", replace(RECORD, expires_ms=issued + day + 1), NETWORK,
         issued),
        ("too long, and expired", "life", replace(RECORD, expires_ms=issued + day + 1), NETWORK,
         expires * 2),
        ("expired by two minutes", "", RECORD, NETWORK, expires + 120_000),
        ("expired by more", "expired", RECORD, NETWORK, expires + 120_001),
        ("two minutes early", "", RECORD, NETWORK, issued - 120_000),
        ("earlier", "future", RECORD, NETWORK, issued - 120_001),
    ):  # fmt: skip
        sealed = (BOB if record.peer == BOB.peer else ALICE).seal(record)
        verdict = admission.judge_record(record, network_terms(network), wall_ms)
        yield {
            "about": about,
            "record": encode(sealed).hex(),
            "hash": sealed.hash.hex(),
            "network": _network(network),
            "wall_ms": wall_ms,
            "verdict": verdict_text(verdict, check),
        }


def requirements() -> Iterable[Case]:
    """``known`` is the sequence of the requirement that applied before, if there was one."""
    replace = msgspec.structs.replace
    mallorys = NetworkParameters("vectors", True, MALLORY.peer)
    here = network_id(OWNED_NETWORK)
    for about, check, signer, changes, network, known in (
        ("the first", "", OWNER, {}, OWNED_NETWORK, None),
        ("a newer one", "", OWNER, {}, OWNED_NETWORK, 4),
        ("a lower version, but newer", "", OWNER, {"onnxruntime": "1.0"}, OWNED_NETWORK, 4),
        ("issued long ago, but newer", "", OWNER, {"issued_ms": 0}, OWNED_NETWORK, 4),
        ("the same again", "stale", OWNER, {}, OWNED_NETWORK, 5),
        ("another of the same sequence", "stale", OWNER, {"onnxruntime": "9"}, OWNED_NETWORK, 5),
        ("an older one", "stale", OWNER, {"sequence": 4}, OWNED_NETWORK, 5),
        ("of another network", "network", OWNER, {}, OTHER_NETWORK, None),
        ("of a network of the same name", "network", OWNER, {}, NETWORK, None),
        ("of a network of the same name and another owner", "network", OWNER, {}, mallorys, None),
        ("by somebody else", "owner", MALLORY, {"owner": MALLORY.peer}, OWNED_NETWORK, None),
        ("by somebody else, and older", "owner", MALLORY, {"owner": MALLORY.peer, "sequence": 0},
         OWNED_NETWORK, 5),
        ("on a network that nobody owns", "owner", OWNER, {"network": network_id(NETWORK)},
         NETWORK, None),
    ):  # fmt: skip
        body = replace(replace(REQUIREMENT, network=here), **changes)
        sealed = signer.seal(body)
        verdict = judge_requirement(body, network_id(network), network.owner, known)
        yield {
            "about": about,
            "requirement": encode(sealed).hex(),
            "hash": sealed.hash.hex(),
            "network": _network(network),
            "network_id": network_id(network).hex(),
            "known": known,
            "verdict": verdict_text(verdict, check),
        }


def jobs() -> Iterable[Case]:
    replace = msgspec.structs.replace
    issued, expires = MANIFEST.issued_ms, MANIFEST.expires_ms
    month = 30 * 24 * 3600 * 1000
    puzzling = replace(MANIFEST, network=network_id(PUZZLE_NETWORK))
    mallorys = replace(puzzling, publisher=MALLORY.peer)
    manifests: list[tuple[str, str, Any, bool, int]] = [
        ("in time", "", MANIFEST, False, issued),
        ("another network", "network", MANIFEST, True, issued),
        ("a publisher whose key fits", "", puzzling, False, issued),
        ("a publisher whose key does not fit", "puzzle", mallorys, False, issued),
        ("a publisher whose key does not fit, and expired", "puzzle", mallorys, False, expires * 2),
        ("expires when issued", "order", replace(MANIFEST, expires_ms=issued), False, issued),
        ("30 days", "", replace(MANIFEST, expires_ms=issued + month), False, issued),
        ("a millisecond more", "life", replace(MANIFEST, expires_ms=issued + month + 1), False,
         issued),
        ("as many replicas as votes", "", replace(MANIFEST, stop=FixedQuorum(3, 3)), False, issued),
        ("fewer replicas than votes", "quorum", replace(MANIFEST, stop=FixedQuorum(3, 2)), False,
         issued),
        ("confidence, with one replica", "", replace(MANIFEST, stop=Confidence(1, 1, 1)), False,
         issued),
        ("fewer replicas, and expired", "quorum", replace(MANIFEST, stop=FixedQuorum(3, 2)), False,
         expires * 2),
        ("a model that is no raw SHA-256 CID", "cid",
         replace(MANIFEST, model=dag_pb(MANIFEST.model)), False, issued),
        ("a table that is no raw SHA-256 CID", "cid",
         replace(MANIFEST, table=dag_pb(MANIFEST.table)), False, issued),
        ("a table of 64 MiB", "", replace(MANIFEST, table_bytes=64 * 2**20), False, issued),
        ("a byte more", "table", replace(MANIFEST, table_bytes=64 * 2**20 + 1), False, issued),
        ("too large a table, and expired", "table",
         replace(MANIFEST, table_bytes=64 * 2**20 + 1), False, expires * 2),
        ("a model as large as the memory", "",
         replace(MANIFEST, model_bytes=MANIFEST.limits.memory_bytes), False, issued),
        ("a byte more of a model", "memory",
         replace(MANIFEST, model_bytes=MANIFEST.limits.memory_bytes + 1), False, issued),
        ("expired by two minutes", "", MANIFEST, False, expires + 120_000),
        ("expired by more", "expired", MANIFEST, False, expires + 120_001),
        ("two minutes early", "", MANIFEST, False, issued - 120_000),
        ("earlier", "future", MANIFEST, False, issued - 120_001),
        ("a unit for each shard", "", replace(MANIFEST, shards=MANIFEST.units), False, issued),
        ("a shard more than units", "shards", replace(MANIFEST, shards=MANIFEST.units + 1), False,
         issued),
    ]  # fmt: skip
    for about, check, manifest, elsewhere, wall_ms in manifests:
        home = PUZZLE_NETWORK if manifest.network == puzzling.network else NETWORK
        network = OTHER_NETWORK if elsewhere else home
        verdict = admission.judge_manifest(manifest, network_terms(network), wall_ms)
        sealed = (MALLORY if manifest is mallorys else PUBLISHER).seal(manifest)
        yield {
            "about": f"manifest: {about}",
            "judged": "manifest",
            "manifest": encode(sealed).hex(),
            "job": job_id(sealed).hex(),
            "network": _network(network),
            "wall_ms": wall_ms,
            "verdict": verdict_text(verdict, check),
        }
    own = PUBLISHER.seal(MANIFEST)
    shared = {"manifest": encode(own).hex(), "job": job_id(own).hex()}
    elsewhere = network_id(OTHER_NETWORK)
    closure = Closure(MANIFEST.network, JOB, PUBLISHER.peer, True, issued + 1)
    for about, check, signer, body in (
        ("by the publisher", "", PUBLISHER, closure),
        ("cancelled", "", PUBLISHER, replace(closure, completed=False)),
        ("another network", "network", PUBLISHER, replace(closure, network=elsewhere)),
        ("by somebody else", "publisher", MALLORY, replace(closure, publisher=MALLORY.peer)),
    ):
        sealed = signer.seal(body)
        yield {
            "about": f"closure: {about}",
            "judged": "closure",
            **shared,
            "sealed": encode(sealed).hex(),
            "hash": sealed.hash.hex(),
            "verdict": verdict_text(admission.judge_closure(body, MANIFEST), check),
        }
    yield from framing.job_frames()
    asked = PUBLISHER.seal(puzzling)
    for about, verdict_, signer in (
        ("an author whose key fits", "accept", ALICE),
        ("an author whose key does not fit", "reject puzzle", BOB),
    ):
        written = replace(frame(signer, [Claim((0,))]), network=puzzling.network, job=job_id(asked))
        sealed = signer.seal(written)
        yield {
            "about": f"frame: {about}",
            "judged": "frame",
            "manifest": encode(asked).hex(),
            "job": job_id(asked).hex(),
            "network": _network(PUZZLE_NETWORK),
            "sealed": encode(sealed).hex(),
            "hash": sealed.hash.hex(),
            "verdict": verdict_,
        }
    yield from _tables()


def dag_pb(cid: Cid) -> Cid:
    """The same hash under another codec."""
    return Cid(b"\x01\x70" + cid[2:])


def _tables() -> Iterable[Case]:
    replace = msgspec.structs.replace
    data = encode(TABLE)
    unit = TABLE.units[0]
    stray = replace(TABLE, units=(*TABLE.units[:-1], replace(unit, pack=1)))
    wrong_cid = UnitTable((dag_pb(TABLE.packs[0]),), TABLE.units)
    memory = MANIFEST.limits.memory_bytes
    heavy = replace(TABLE, units=(*TABLE.units[:-1], replace(unit, length=memory + 1)))
    heavy_promise = {
        "table": cid_of(encode(heavy)),
        "table_bytes": len(encode(heavy)),
        "total_bytes": sum(one.length for one in heavy.units),
    }
    for about, verdict, given, promised in (
        ("as promised", "accept", data, {}),
        ("other bytes", "refuse content", data, {"table": cid_of(b"other")}),
        ("other length", "refuse content", data, {"table_bytes": len(data) + 1}),
        ("not canonical", "refuse encoding", data + b"\x00", None),
        ("another number of units", "refuse units", data, {"units": MANIFEST.units + 1}),
        ("another sum of lengths", "refuse total", data, {"total_bytes": 1}),
        ("a pack that is not listed", "refuse pack", encode(stray), None),
        ("an input larger than the memory", "refuse memory", encode(heavy), heavy_promise),
        ("a pack that is no raw SHA-256 CID", "refuse cid", encode(wrong_cid), None),
    ):  # fmt: skip
        fitting = {"table": cid_of(given), "table_bytes": len(given)}
        sealed = PUBLISHER.seal(replace(MANIFEST, **(fitting if promised is None else promised)))
        yield {
            "about": f"table: {about}",
            "judged": "table",
            "manifest": encode(sealed).hex(),
            "job": job_id(sealed).hex(),
            "table": given.hex(),
            "sha256": sha256(given).hex(),
            "verdict": verdict,
        }
