"""A second implementation of the protocol's rules, small enough to be read in one go.

Built from the chapters beside it on ``msgpack``, ``pynacl`` and the standard library alone: it
imports nothing of p2pfleet, so that a mistake has to be made twice to stay unnoticed. Which votes
count, what they amount to and what proves a fault is in ``independent_trust.py``.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from math import ceil, prod
from typing import Any
from urllib.parse import quote

import msgpack
from independent_shards import shard_of
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

Reader = Callable[[Any], Any]

# ---- encoding.md: types and bounds -----------------------------------------------------------


class Refused(Exception):
    """What a reader must not take; ``rule`` is the name that ``encoding.md`` gives the reason."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


def need(condition: bool, rule: str) -> None:
    if not condition:
        raise Refused(rule)


def whole(low: int, high: int) -> Reader:
    def read(value: Any) -> int:
        need(type(value) is int, "type")
        need(low <= value <= high, "bound")
        return int(value)

    return read


def octets(low: int, high: int) -> Reader:
    def read(value: Any) -> str:
        need(type(value) is bytes, "type")
        need(low <= len(value) <= high, "bound")
        return str(value.hex())

    return read


def text(low: int, high: int, pattern: str = "(?s).*") -> Reader:
    def read(value: Any) -> str:
        need(type(value) is str, "type")
        need(low <= len(value) <= high and re.fullmatch(pattern, value) is not None, "bound")
        return str(value)

    return read


def boolean(value: Any) -> bool:
    need(type(value) is bool, "type")
    return bool(value)


def nullable(reader: Reader) -> Reader:
    return lambda value: None if value is None else reader(value)


def many(item: Reader, low: int, high: int) -> Reader:
    def read(value: Any) -> list[Any]:
        need(type(value) is list, "type")
        need(low <= len(value) <= high, "bound")
        return [item(one) for one in value]

    return read


def ascending(field: str | None, reader: Reader) -> Reader:
    """A list whose elements (or one field of them) ascend, each once."""

    def read(value: Any) -> list[Any]:
        found: list[Any] = reader(value)
        keys = found if field is None else [one[field] for one in found]
        need(keys == sorted(set(keys)), "order")
        return found

    return read


def record(**fields: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        need(type(value) is list, "type")
        need(len(value) == len(fields), "fields")
        return {name: field(one) for (name, field), one in zip(fields.items(), value, strict=True)}

    return read


def tagged(*variants: tuple[str | int, str, Reader]) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        need(type(value) is list, "type")
        need(len(value) > 0, "fields")
        for tag, name, fields in variants:
            if type(value[0]) is type(tag) and value[0] == tag:
                return {"is": name, **fields(value[1:])}
        raise Refused("tag")

    return read


def versions(reader: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        found: dict[str, Any] = reader(value)
        need(found["oldest"] <= found["newest"], "bound")
        return found

    return read


VERSION = whole(0, 65535)
HASH, CID, KEY_SIGNATURE = octets(32, 32), octets(36, 36), octets(64, 64)
UNIT, COUNT, ATTEMPT = whole(0, 999_999), whole(0, 2**53 - 1), whole(0, 255)
SIZE, DAY_MS = whole(0, 16 * 2**30), 24 * 3600 * 1000
LIMITS = record(
    memory_bytes=whole(2**20, 2**40), cpu_ms=whole(1, DAY_MS), output_bytes=whole(1, 2**32)
)
COMPARISON = tagged(
    ("exact", "Exact", record()),
    ("tolerance", "Tolerance", record(outputs=ascending("name", many(record(
        name=text(1, 256), absolute=whole(0, 10**9), relative=whole(0, 10**7)), 0, 64)))),
)  # fmt: skip
STOP = tagged(
    ("quorum", "FixedQuorum", record(quorum=whole(1, 32), replicas_max=whole(1, 64))),
    ("confidence", "Confidence", record(
        error_ppb=whole(1, 5 * 10**8), faulty_ppm=whole(1, 5 * 10**5), replicas_max=whole(1, 64))),
)  # fmt: skip
TRUST = record(
    model_class=text(1, 64), snapshot=nullable(HASH), ringers=nullable(HASH),
    audit_ppm=whole(0, 10**6), crowd=whole(1, 10**6), step_ms=whole(100, 3_600_000),
    window_ms=whole(100, 3_600_000),
)  # fmt: skip
UNITS = many(UNIT, 1, 4096)
INDEX, ITEM = whole(0, 1023), whole(0, 255)
VOTE = record(frame=HASH, index=INDEX, item=ITEM)
ENTRY = tagged(
    (1, "Claim", record(units=UNITS)),
    (2, "Release", record(units=UNITS)),
    (3, "Reveal", record(
        commit=HASH, index=INDEX, seed=HASH,
        items=many(record(unit=UNIT, attempt=ATTEMPT, digest=HASH, length=SIZE), 1, 256),
        seen=ascending(None, many(HASH, 0, 256)))),
    (4, "Failure", record(unit=UNIT, attempt=ATTEMPT, reason=text(0, 200))),
    (5, "Commit", record(
        seed_hash=HASH,
        items=many(record(unit=UNIT, attempt=ATTEMPT, commitment=HASH), 1, 256))),
    (6, "Endorse", record(unit=UNIT, attempt=ATTEMPT, own=VOTE, digest=HASH)),
    (7, "Audit", record(unit=UNIT, digest=HASH)),
    (8, "OpenRingers", record(
        secret=HASH, ringers=many(record(unit=UNIT, digest=HASH), 1, 128))),
    (9, "Keep", record(digests=ascending(None, many(HASH, 1, 256)))),
    (10, "Drop", record(digests=ascending(None, many(HASH, 1, 256)))),
)  # fmt: skip
SHARD = whole(0, 4095)
SEALED = record(body=octets(1, 32 * 1024), signer=HASH, signature=KEY_SIGNATURE)
MEMBER_NAME = text(0, 40, "[^\\x00-\\x1f\\x7f]*")
BODY = tagged(
    ("p2pfleet/1/manifest", "Manifest", record(
        network=HASH, publisher=HASH, name=text(1, 120), model=CID, model_bytes=SIZE, table=CID,
        table_bytes=SIZE, units=whole(1, 1_000_000), total_bytes=whole(0, 2**50), limits=LIMITS,
        comparison=COMPARISON, stop=STOP, shards=whole(1, 4096), lease_ms=whole(1000, DAY_MS),
        issued_ms=COUNT, expires_ms=COUNT, salt=octets(16, 16), trust=TRUST, work=COUNT)),
    ("p2pfleet/1/closure", "Closure", record(
        network=HASH, job=HASH, publisher=HASH, completed=boolean, issued_ms=COUNT)),
    ("p2pfleet/1/peer", "PeerRecord", record(
        network=HASH, peer=HASH, sequence=COUNT, issued_ms=COUNT, expires_ms=COUNT,
        software=text(0, 64), roles=many(text(1, 16), 0, 4), slots=whole(0, 4096),
        addresses=many(text(0, 200), 0, 8), capability=record(
            grade=text(0, 4, "A|B|C|none"), numeric_class=octets(0, 32),
            onnxruntime=text(0, 32)))),
    ("p2pfleet/1/requirement", "Requirement", record(
        network=HASH, owner=HASH, sequence=COUNT, issued_ms=COUNT,
        onnxruntime=text(0, 32, r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}"))),
    ("p2pfleet/1/members", "Members", record(
        network=HASH, owner=HASH, page=whole(0, 15), sequence=COUNT, issued_ms=COUNT,
        entries=ascending("peer", many(record(
            peer=HASH, name=MEMBER_NAME, admitted=boolean), 0, 512)))),
    ("p2pfleet/1/invitation", "Invitation", record(
        network=HASH, owner=HASH, key=HASH, name=MEMBER_NAME, uses=whole(1, 256), issued_ms=COUNT,
        expires_ms=COUNT)),
    ("p2pfleet/1/admission", "Admission", record(
        network=HASH, key=HASH, peer=HASH, invitation=SEALED)),
    ("p2pfleet/1/acceptance", "Acceptance", record(
        network=HASH, member=HASH, accepted_ms=COUNT, admission=SEALED)),
    ("p2pfleet/1/frame", "Frame", record(
        network=HASH, job=HASH, author=HASH, incarnation=COUNT, sequence=COUNT,
        entries=many(ENTRY, 1, 1024), shard=SHARD)),
    ("p2pfleet/1/snapshot", "Snapshot", record(
        network=HASH, publisher=HASH, model_class=text(1, 64), number=COUNT, issued_ms=COUNT,
        records=ascending("peer", many(record(peer=HASH, checks=whole(1, 10**6)), 0, 768)))),
    ("p2pfleet/1/receipt", "Receipt", record(
        network=HASH, job=HASH, publisher=HASH, peer=HASH, number=COUNT, units=whole(1, 10**6),
        work=whole(1, 2**62 - 1), credit=whole(1, 2**63 - 2), issued_ms=COUNT)),
    ("p2pfleet/1/jobs", "JobsRecord", record(
        network=HASH, publisher=HASH, sequence=COUNT, issued_ms=COUNT, expires_ms=COUNT,
        jobs=ascending("job", many(record(job=HASH, expires_ms=COUNT), 0, 256)))),
)  # fmt: skip
POSITION = record(author=HASH, incarnation=COUNT, next_sequence=COUNT)
MESSAGE = tagged(
    ("hello", "Hello", versions(record(
        network=HASH, oldest=VERSION, newest=VERSION, minor=VERSION, record=SEALED))),
    ("goodbye", "Goodbye", versions(record(
        oldest=VERSION, newest=VERSION, minor=VERSION, software=text(0, 64)))),
    ("deliver", "Deliver", record(sealed=SEALED)),
    ("jobs", "JobsSummary", record(open=many(HASH, 0, 512), closed=many(HASH, 0, 512))),
    ("frames", "FramesSummary", record(
        job=HASH, positions=many(POSITION, 0, 1024), snapshot=whole(-1, 2**53 - 1), shard=SHARD,
        serving=boolean, whole=boolean)),
    ("shards", "ShardsSummary", record(
        job=HASH, rows=ascending("shard", many(record(
            shard=SHARD, members=whole(0, 65_535), open=whole(0, 1_000_000),
            age_s=whole(0, 3600)), 1, 128)))),
    ("wanted", "Wanted", record(job=HASH, units=many(UNIT, 1, 1024))),
    ("proof", "Proof", record(first=SEALED, second=SEALED)),
    ("roster", "RosterSummary", record(
        pages=many(COUNT, 16, 16), accepted=many(HASH, 16, 16))),
)  # fmt: skip
BLOB_MESSAGE = tagged(
    ("want", "BlobRequest", record(network=HASH, cid=CID, offset=SIZE, length=SIZE)),
    ("have", "BlobHeader", record(found=boolean, length=SIZE)),
)
BULK_MESSAGE = tagged(
    ("ticket", "TicketRequest", record(network=HASH)),
    ("admit", "Ticket", record(
        port=whole(1, 65535), ticket=HASH, certificate=HASH, lifetime_ms=whole(0, 3_600_000))),
    ("refuse", "NoTicket", record(wait_ms=whole(0, 3_600_000))),
    ("pieces", "PiecesRequest", record(
        network=HASH, cid=CID, offset=SIZE, length=whole(1, 2**34), held=octets(0, 2048),
        most=whole(1, 16), waited_ms=whole(0, 3_600_000))),
    ("holds", "Pieces", record(
        complete=boolean, held=octets(0, 2048), take=many(whole(0, 16_383), 0, 16),
        wait_ms=whole(0, 3_600_000))),
)  # fmt: skip


def network(value: Any) -> dict[str, Any]:
    parameters = PARAMETERS(value)
    need(not parameters["closed"] or parameters["owner"] is not None, "bound")
    return parameters


PARAMETERS = tagged(
    ("p2pfleet/1/network", "NetworkParameters",
     record(name=text(1, 64, "[a-z0-9][a-z0-9.-]*"), testnet=boolean, owner=nullable(HASH),
            puzzle_bits=whole(0, 40), votes_a_subnet=whole(0, 64), closed=boolean)),
)  # fmt: skip
TABLE = record(
    packs=many(CID, 1, 1024),
    units=many(
        record(pack=whole(0, 1023), offset=SIZE, length=SIZE, sha256=HASH), 1, 1_000_000
    ),
)  # fmt: skip
CERTIFICATE = record(
    job=HASH, unit=UNIT, digest=HASH, snapshot=nullable(HASH), votes=many(VOTE, 0, 64),
    against=many(VOTE, 0, 64), audit=nullable(VOTE),
)  # fmt: skip
WIDTHS = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2,
    "uint32": 4, "uint64": 8, "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
TENSOR = record(
    name=text(1, 256), dtype=text(1, 7, "|".join(WIDTHS)),
    shape=many(whole(0, 2**40 - 1), 0, 16), data=octets(0, 2**32 - 1),
)  # fmt: skip


def bundle(value: Any) -> list[Any]:
    tensors: list[Any] = many(TENSOR, 0, 64)(value)
    need(len({one["name"] for one in tensors}) == len(tensors), "bundle")
    for one in tensors:
        need(len(one["data"]) // 2 == prod(one["shape"]) * WIDTHS[one["dtype"]], "bundle")
        if one["dtype"] == "bool":
            need(set(bytes.fromhex(one["data"])) <= {0, 1}, "bundle")
    return tensors


# What is read, as what, and how long it may be.
KINDS: dict[str, tuple[Reader, int]] = {
    "body": (BODY, 32 * 1024), "entry": (ENTRY, 32 * 1024), "announcement": (SEALED, 8 * 1024),
    "message": (MESSAGE, 68 * 1024), "blob message": (BLOB_MESSAGE, 256),
    "bulk message": (BULK_MESSAGE, 2304),
    "network": (network, 1024), "table": (TABLE, 64 * 2**20), "bundle": (bundle, 16 * 2**30),
    "certificate": (CERTIFICATE, 32 * 1024), "sealed": (SEALED, 68 * 1024),
}  # fmt: skip


def decode(data: bytes, kind: str) -> Any:
    reader, limit = KINDS[kind]
    need(len(data) <= limit, "size")
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise Refused("syntax") from error
    value = reader(raw)
    need(msgpack.packb(raw, use_bin_type=True) == data, "canonical")
    return value


# ---- identity.md -----------------------------------------------------------------------------

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
PEER_PREFIX, CID_PREFIX = bytes.fromhex("002408011220"), bytes.fromhex("01551220")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def peer_text(key: bytes) -> str:
    # The multihash begins with one zero byte, which base58 writes as one "1".
    number, digits = int.from_bytes(PEER_PREFIX + key, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        digits = ALPHABET[rest] + digits
    return "1" + digits


def parse_peer(given: str) -> bytes:
    need(1 < len(given) <= 80 and set(given) <= set(ALPHABET), "text")
    number = 0
    for letter in given:
        number = number * 58 + ALPHABET.index(letter)
    key = (number % 2**256).to_bytes(32, "big")
    need(peer_text(key) == given, "text")
    return key


def cid_text(cid: bytes) -> str:
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def parse_cid(given: str) -> bytes:
    need(re.fullmatch("b[a-z2-7]{58}", given) is not None, "text")
    cid = base64.b32decode(given[1:].upper() + "======")
    need(cid.startswith(CID_PREFIX) and cid_text(cid) == given, "text")
    return cid


def parse_job(given: str) -> str:
    need(re.fullmatch("[0-9a-f]{64}", given) is not None, "text")
    return given


def open_sealed(sealed: dict[str, Any]) -> dict[str, Any]:
    """The body inside, once it is shown that the one it names signed it."""
    body, signer = bytes.fromhex(sealed["body"]), bytes.fromhex(sealed["signer"])
    try:
        VerifyKey(signer).verify(b"p2pfleet-signed-1:" + body, bytes.fromhex(sealed["signature"]))
    except (CryptoError, ValueError) as error:
        raise Refused("signature") from error
    value: dict[str, Any] = decode(body, "body")
    named = {"Manifest": "publisher", "Closure": "publisher", "PeerRecord": "peer",
             "Requirement": "owner", "Frame": "author", "Snapshot": "publisher",
             "Receipt": "publisher", "Members": "owner", "Invitation": "owner",
             "Admission": "key", "Acceptance": "member", "JobsRecord": "publisher"}  # fmt: skip
    need(value[named[value["is"]]] == sealed["signer"], "signer")
    if value["is"] in ("Admission", "Acceptance"):
        inner = "invitation" if value["is"] == "Admission" else "admission"
        # What lies inside is read as what it has to be, never deeper than that.
        inside = decode(bytes.fromhex(value[inner]["body"]), "body")
        need(inside["is"].lower() == inner, "nested")
        value["inside"] = open_sealed(value[inner])
        need(inside["network"] == value["network"], "nested")
        need(inner == "admission" or inside["key"] == value["key"], "nested")
    return value


def verified(given: str) -> tuple[str, dict[str, Any]]:
    """Hash and body of a sealed body in hexadecimal."""
    sealed = decode(bytes.fromhex(given), "sealed")
    return sha(bytes.fromhex(sealed["body"])), open_sealed(sealed)


def network_bytes(
    name: str, testnet: bool, owner: str | None, puzzle_bits: int, votes_a_subnet: int, closed: bool
) -> bytes:
    key = None if owner is None else bytes.fromhex(owner)
    fields = ["p2pfleet/1/network", name, testnet, key, puzzle_bits, votes_a_subnet, closed]
    return bytes(msgpack.packb(fields))


def network_id(**parameters: Any) -> str:
    return sha(network_bytes(**parameters))


def puzzle(network: str, key: str) -> tuple[str, int]:
    """The hash, and how many zero bits it begins with."""
    digest = sha(b"p2pfleet-puzzle-1:" + bytes.fromhex(network + key))
    bits = "".join(f"{byte:08b}" for byte in bytes.fromhex(digest))
    return digest, len(bits) - len(bits.lstrip("0"))


def fits(network: str, key: str, bits: int) -> bool:
    return puzzle(network, key)[1] >= bits


# ---- jobs.md, frames.md ----------------------------------------------------------------------

SKEW_MS = 120_000


def judge_times(issued: int, expires: int, longest: int, wall_ms: int) -> tuple[list[str], ...]:
    """What is wrong with a life: of its own accord, and by the receiver's clock."""
    wrong, late = [], []
    if expires <= issued:
        wrong.append("reject order")
    if expires - issued > longest:
        wrong.append("reject life")
    if expires + SKEW_MS < wall_ms:
        late.append("ignore expired")
    if issued - SKEW_MS > wall_ms:
        late.append("ignore future")
    return wrong, late


def judge_record(peer: dict[str, Any], network: str, bits: int, wall_ms: int) -> str:
    wrong, late = judge_times(peer["issued_ms"], peer["expires_ms"], DAY_MS, wall_ms)
    if peer["network"] != network:
        return "reject network"
    if not fits(network, peer["peer"], bits):
        return "reject puzzle"
    return [*wrong, *late, "accept"][0]


def judge_requirement(
    requirement: dict[str, Any], network: str, owner: str | None, known: int | None
) -> str:
    if requirement["network"] != network:
        return "reject network"
    if requirement["owner"] != owner:
        return "reject owner"
    newer = known is None or requirement["sequence"] > known
    return "accept" if newer else "ignore stale"


def version_fits(version: str, minimum: str) -> bool:
    """The rule of ``volunteers.md``."""

    def numbers(given: str) -> list[int]:
        found: list[int] = []
        for part in given.split(".")[:4]:
            digits = len(part) - len(part.lstrip("0123456789"))
            if digits:
                found.append(int(part[:digits]))
            if digits < len(part) or not digits:
                break
        return found

    have = numbers(version)
    return bool(have) and [*have, 0, 0, 0][:4] >= [*numbers(minimum), 0, 0, 0][:4]


def judge_manifest(manifest: dict[str, Any], network: str, bits: int, wall_ms: int) -> str:
    times = manifest["issued_ms"], manifest["expires_ms"]
    wrong, late = judge_times(*times, 30 * DAY_MS, wall_ms)
    if manifest["network"] != network:
        return "reject network"
    if not fits(network, manifest["publisher"], bits):
        return "reject puzzle"
    if manifest["stop"]["replicas_max"] < manifest["stop"].get("quorum", 0):
        wrong.append("reject quorum")
    if manifest["shards"] > manifest["units"]:
        wrong.append("reject shards")
    if not all(manifest[one].startswith(CID_PREFIX.hex()) for one in ("model", "table")):
        wrong.append("reject cid")
    if manifest["table_bytes"] > KINDS["table"][1]:
        wrong.append("reject table")
    if manifest["model_bytes"] > manifest["limits"]["memory_bytes"]:
        wrong.append("reject memory")
    return [*wrong, *late, "accept"][0]


def judge_closure(closure: dict[str, Any], manifest: dict[str, Any]) -> str:
    if closure["network"] != manifest["network"]:
        return "reject network"
    return "accept" if closure["publisher"] == manifest["publisher"] else "reject publisher"


def judge_frame(frame: dict[str, Any], manifest: dict[str, Any], bits: int) -> str:
    if frame["network"] != manifest["network"]:
        return "reject network"
    if not fits(frame["network"], frame["author"], bits):
        return "reject puzzle"
    if frame["shard"] >= manifest["shards"]:
        return "reject shard"
    for entry in frame["entries"]:
        if (entry["is"] in ("Audit", "OpenRingers")) != (frame["author"] == manifest["publisher"]):
            return "reject publisher"
        if max(units_of(entry), default=0) >= manifest["units"]:
            return "reject unit"
        items = entry.get("items", [])
        if any(one.get("length", 0) > manifest["limits"]["output_bytes"] for one in items):
            return "reject length"
        if len({(one["unit"], one["attempt"]) for one in items}) < len(items):
            return "reject twice"
        if entry["is"] == "Endorse" and manifest["comparison"]["is"] == "Exact":
            return "reject endorsement"
        if entry["is"] == "OpenRingers" and ringers_hash(entry) != manifest["trust"]["ringers"]:
            return "reject ringers"
        parts = (manifest["salt"], manifest["units"], manifest["shards"])
        if entry["is"] != "OpenRingers" and any(
            shard_of(*parts, unit) != frame["shard"] for unit in units_of(entry)
        ):
            return "reject astray"
    return "accept"


def units_of(entry: dict[str, Any]) -> list[int]:
    """The units that an entry is about."""
    if "digests" in entry:
        return []
    listed = entry.get("items", entry.get("ringers"))
    if listed is not None:
        return [one["unit"] for one in listed]
    return list(entry["units"]) if "units" in entry else [entry["unit"]]


def ringers_hash(opened: dict[str, Any]) -> str:
    pairs = [[one["unit"], bytes.fromhex(one["digest"])] for one in opened["ringers"]]
    return sha(
        b"p2pfleet-ringers-1:" + bytes.fromhex(opened["secret"]) + bytes(msgpack.packb(pairs))
    )


def judge_snapshot(snapshot: dict[str, Any], network: str, bits: int) -> str:
    if snapshot["network"] != network:
        return "reject network"
    return "accept" if fits(network, snapshot["publisher"], bits) else "reject puzzle"


def weighs(snapshot: dict[str, Any], manifest: dict[str, Any], known: int) -> bool:
    """Whether a snapshot weighs votes in a job from now on, where one of number ``known`` did."""
    return bool(
        snapshot["publisher"] == manifest["publisher"]
        and snapshot["model_class"] == manifest["trust"]["model_class"]
        and snapshot["number"] > known
    )


def judge_table(data: bytes, manifest: dict[str, Any]) -> str:
    if len(data) != manifest["table_bytes"] or CID_PREFIX.hex() + sha(data) != manifest["table"]:
        return "refuse content"
    try:
        table = decode(data, "table")
    except Refused:
        return "refuse encoding"
    if len(table["units"]) != manifest["units"]:
        return "refuse units"
    if sum(unit["length"] for unit in table["units"]) != manifest["total_bytes"]:
        return "refuse total"
    if any(unit["pack"] >= len(table["packs"]) for unit in table["units"]):
        return "refuse pack"
    if any(unit["length"] > manifest["limits"]["memory_bytes"] for unit in table["units"]):
        return "refuse memory"
    good = all(pack.startswith(CID_PREFIX.hex()) for pack in table["packs"])
    return "accept" if good else "refuse cid"


class FrameLog:
    """Which frames of a job are here; the same rules as in ``frames.md``."""

    def __init__(self, units: int, leases: int) -> None:
        self.budget = 256 + 24 * units + min(128 * leases, 1_000_000)
        self.next: dict[tuple[str, int], int] = {}
        self.ahead: dict[tuple[str, int], set[int]] = {}
        self.written: dict[str, int] = {}

    def admit(self, author: str, incarnation: int, sequence: int, entries: int) -> str:
        key = (author, incarnation)
        here, ahead = self.next.get(key, 0), self.ahead.setdefault(key, set())
        if sequence < here or sequence in ahead:
            return "ignore known"
        if sequence - here > 1024 or len(ahead) >= 1024:
            return "ignore ahead"
        if key not in self.next and len(self.next) >= 1024:
            return "ignore authors"
        if self.written.get(author, 0) + entries > self.budget:
            return "ignore budget"
        self.written[author] = self.written.get(author, 0) + entries
        ahead.add(sequence)
        while here in ahead:
            ahead.remove(here)
            here += 1
        self.next[key] = here
        return "accept"

    def missing(self, theirs: list[list[Any]]) -> list[list[Any]]:
        have = {(author, incarnation): at for author, incarnation, at in theirs}
        room, replies = 128, []
        for (author, incarnation), end in sorted(self.next.items()):
            first = have.get((author, incarnation), 0)
            last = min(end, first + room)
            if first < last:
                room -= last - first
                replies.append([author, incarnation, first, last])
        return replies


# ---- claims.md -------------------------------------------------------------------------------


def rank(salt: bytes, unit: int, peer: bytes) -> bytes:
    return hashlib.sha256(salt + struct.pack(">Q", unit) + peer).digest()


def lease_units(mean_ms: int | None, slots: int, remaining: int, volunteers: int) -> int:
    """How many units to hold at once."""
    if mean_ms is None:
        return 2 * slots
    share = ceil(Fraction(remaining, 2 * volunteers))
    return max(slots, min(64, slots * round(Fraction(2000, mean_ms)), share))


# ---- results.md ------------------------------------------------------------------------------


def outputs_file(tensors: list[dict[str, Any]]) -> bytes:
    """``outputs/NNNNNN.npz`` for a bundle."""
    members, directory = b"", b""
    for one in tensors:
        width = WIDTHS[one["dtype"]]
        kind = f"{'|' if width == 1 else '<'}{one['dtype'][0]}{width}"
        shape = tuple(one["shape"])
        head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
        head += b" " * (-(len(head) + 11) % 64) + b"\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
        content += bytes.fromhex(one["data"])
        name = quote(one["name"], safe="").encode() + b".npy"
        size, sum_ = len(content), zlib.crc32(content)
        common = struct.pack("<5H3IH", 45, 0, 0, 0, 33, sum_, 2**32 - 1, 2**32 - 1, len(name))
        directory += b"PK\x01\x02" + struct.pack("<H", 3 << 8 | 45) + common
        directory += struct.pack("<4H2I", 28, 0, 0, 0, 0o100644 << 16, 2**32 - 1) + name
        directory += struct.pack("<2H3Q", 1, 24, size, size, len(members))
        members += b"PK\x03\x04" + common + struct.pack("<H", 20) + name
        members += struct.pack("<2H2Q", 1, 16, size, size) + content
    count, end = len(tensors), len(members) + len(directory)
    tail = b"PK\x06\x06" + struct.pack(
        "<Q2H2I4Q", 44, 3 << 8 | 45, 45, 0, 0, count, count, len(directory), len(members)
    )
    tail += b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
    tail += b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, len(directory), 2**32 - 1, 0)
    return members + directory + tail
