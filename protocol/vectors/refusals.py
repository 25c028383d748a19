"""Encodings that a reader must refuse, each for one reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
from samples import (
    ALICE,
    ALICES_PAGE,
    BOB,
    CLOSED_NETWORK,
    ID,
    JOBS_RECORD,
    MANIFEST,
    OWNED_NETWORK,
    RECEIPT,
    RECORD,
    REQUIREMENT,
    SEALED_RECORD,
    SNAPSHOT,
    TABLE,
    VALID_BODIES,
    VALID_OTHERS,
    acceptance,
    admission,
    invitation,
)

from p2pfleet.core.model.ids import sha256
from p2pfleet.core.wire.codec import encode

Runs = str | list[list[Any]]
GIB = 2**30
DAY_MS = 24 * 3600 * 1000
CLOCK = 2**53
MISSING = object()


def refusals() -> Iterable[dict[str, Any]]:
    """The cases of ``refused.json``."""
    for about, kind, rule, data in (*_raw(), *_changed()):
        yield {
            "about": about,
            "kind": kind,
            "rule": rule,
            "encoding": data.hex(),
            "sha256": sha256(data).hex(),
        }
    yield from _long()


def _named(about: str) -> Any:
    return next(value for _, name, value in (*VALID_BODIES, *VALID_OTHERS) if name == about)


def _raw() -> Iterable[tuple[str, str, str, bytes]]:
    """Bytes that no encoder writes."""
    claim = encode(_named("a claim"))
    reason = b"\x94\x04\x01\x00"
    for about, rule, data in (
        ("nothing at all", "syntax", b""),
        ("cut short", "syntax", claim[:-1]),
        ("a byte after the end", "syntax", claim + b"\x00"),
        ("the byte that MessagePack never uses", "syntax", b"\xc1"),
        ("a text that is not UTF-8", "syntax", reason + b"\xa1\xff"),
        ("a text with half a surrogate pair", "syntax", reason + b"\xa3\xed\xa0\x80"),
        ("a text with an overlong NUL", "syntax", reason + b"\xa2\xc0\x80"),
        ("a text one byte too short for its length", "syntax", reason + b"\xa2r"),
        ("nil", "type", b"\xc0"),
        ("a map", "type", b"\x81\xa4type\x01"),
        ("an integer", "type", b"\x01"),
        ("no fields and no tag", "fields", b"\x90"),
        ("a tag that nothing has", "tag", b"\x92\x0d\x91\x07"),
        ("a negative tag", "tag", b"\x92\xff\x91\x07"),
        ("a tag that is a text", "tag", b"\x92\xa11\x91\x07"),
        ("a tag that is true", "tag", b"\x92\xc3\x91\x07"),
        ("an array in 16 bits for 2 fields", "canonical", b"\xdc\x00\x02\x01\x91\x07"),
        ("an array in 32 bits", "canonical", b"\xdd\x00\x00\x00\x02\x01\x91\x07"),
        ("a tag in 8 bits", "canonical", b"\x92\xcc\x01\x91\x07"),
        ("7 in 8 bits", "canonical", b"\x92\x01\x91\xcc\x07"),
        ("7 in 16 bits", "canonical", b"\x92\x01\x91\xcd\x00\x07"),
        ("7 in 32 bits", "canonical", b"\x92\x01\x91\xce\x00\x00\x00\x07"),
        ("7 in 64 bits", "canonical", b"\x92\x01\x91\xcf" + (7).to_bytes(8, "big")),
        ("7 as a signed integer", "canonical", b"\x92\x01\x91\xd0\x07"),
        ("300 as a signed integer", "canonical", b"\x92\x01\x91\xd1\x01\x2c"),
        ("a short text in 8 bits", "canonical", reason + b"\xd9\x01r"),
        ("a short text in 16 bits", "canonical", reason + b"\xda\x00\x01r"),
        ("a hash in 16 bits", "canonical",
         b"\x93\x07\x05\xc5\x00\x20" + bytes(32)),
        ("7 as a float", "type", b"\x92\x01\x91\xca" + bytes.fromhex("40e00000")),
        ("true as a unit", "type", b"\x92\x01\x91\xc3"),
        ("nil as a unit", "type", b"\x92\x01\x91\xc0"),
        ("a text for a hash", "type", b"\x93\x07\x05\xd9\x20" + b"a" * 32),
        ("bytes for a text", "type", reason + b"\xc4\x01r"),
        ("an extension for a unit", "type", b"\x92\x01\x91\xd4\x01\x07"),
        ("a timestamp for a unit", "type", b"\x92\x01\x91\xd6\xff" + bytes(4)),
        ("one unit without its list", "type", b"\x92\x01\x07"),
        ("a negative unit", "bound", b"\x92\x01\x91\xff"),
        ("the largest integer there is as a unit", "bound", b"\x92\x01\x91\xcf" + b"\xff" * 8),
    ):  # fmt: skip
        yield about, "entry", rule, data


def _changed() -> Iterable[tuple[str, str, str, bytes]]:
    """Messages in which one value is not what its type allows."""
    manifest, closure = MANIFEST, _named("a closure: complete")
    certificate = _named("a certificate")
    written = _named("a frame with an entry of each kind")
    sealed, hello = SEALED_RECORD, _named("hello")
    jobs, frames = _named("a jobs summary"), _named("a frames summary")
    want, have = _named("a request"), _named("found")
    ticket, pieces = _named("a ticket"), _named("pieces are wanted")
    holds = _named("all pieces are here")
    wanted = _named("one unit wanted")
    digest, vote, long_hash = bytes(32), [bytes(32), 0, 0], bytes(33)
    low, high = bytes(32), b"\xff" * 32
    changes: tuple[tuple[str, Any, tuple[tuple[Any, ...], ...]], ...] = (
        ("body", manifest, (
            (0, "p2pfleet/2/manifest", "tag"), (0, "p2pfleet/1/Manifest", "tag"),
            (1, bytes(31), "bound"), (1, long_hash, "bound"), (2, bytes(31), "bound"),
            (3, "", "bound"), (3, "n" * 121, "bound"), (4, bytes(35), "bound"),
            (4, bytes(37), "bound"), (5, -1, "bound"), (5, 16 * GIB + 1, "bound"),
            (6, b"", "bound"), (7, 16 * GIB + 1, "bound"), (8, 0, "bound"),
            (8, 1_000_001, "bound"), (9, -1, "bound"), (9, 2**50 + 1, "bound"),
            ((10, 0), 2**20 - 1, "bound"), ((10, 0), 2**40 + 1, "bound"), ((10, 1), 0, "bound"),
            ((10, 1), DAY_MS + 1, "bound"), ((10, 2), 0, "bound"), ((10, 2), 2**32 + 1, "bound"),
            ((10, 2), MISSING, "fields"), (10, [2**20, 1, 1, 1], "fields"),
            (11, [], "fields"), (11, ["tolerance"], "fields"), (11, ["near"], "tag"),
            (11, ["exact", 1], "fields"), (12, [2, 5], "tag"), (12, ["votes", 2, 5], "tag"),
            ((12, 1), 0, "bound"), ((12, 1), 33, "bound"), ((12, 2), 0, "bound"),
            ((12, 2), 65, "bound"), (13, 0, "bound"), (13, 4097, "bound"),
            (14, 999, "bound"), (14, DAY_MS + 1, "bound"), (15, -1, "bound"), (15, CLOCK, "bound"),
            (16, CLOCK, "bound"), (17, bytes(15), "bound"), (17, bytes(17), "bound"),
            (17, "s" * 16, "type"), (8, True, "type"), (18, None, "type"), (18, [], "fields"),
            ((18, 0), "", "bound"), ((18, 0), "m" * 65, "bound"), ((18, 1), bytes(31), "bound"),
            ((18, 1), "", "type"), ((18, 2), long_hash, "bound"), ((18, 3), -1, "bound"),
            ((18, 3), 1_000_001, "bound"), ((18, 4), 0, "bound"), ((18, 4), 1_000_001, "bound"),
            ((18, 5), 99, "bound"), ((18, 5), 3_600_001, "bound"), ((18, 6), 99, "bound"),
            ((18, 6), 3_600_001, "bound"), ((18, 6), MISSING, "fields"), (18, MISSING, "fields"),
            (19, -1, "bound"), (19, CLOCK, "bound"), (19, MISSING, "fields"))),
        ("body", _named("a manifest that asks for confidence"), (
            ((12, 1), 0, "bound"), ((12, 1), 500_000_001, "bound"), ((12, 2), 0, "bound"),
            ((12, 2), 500_001, "bound"), ((12, 3), 0, "bound"), ((12, 3), 65, "bound"),
            ((12, 3), MISSING, "fields"), ((12, 1), 0.001, "type"),
            ((11, 1), [["b", 0, 0], ["a", 0, 0]], "order"),
            ((11, 1), [["a", 0, 0], ["a", 1, 1]], "order"),
            ((11, 1), [["", 0, 0]], "bound"), ((11, 1), [["n" * 257, 0, 0]], "bound"),
            ((11, 1), [["a", 10**9 + 1, 0]], "bound"), ((11, 1), [["a", 0, 10**7 + 1]], "bound"),
            ((11, 1), [["a", -1, 0]], "bound"), ((11, 1), [["a", 0]], "fields"),
            ((11, 1), [["a", 0.5, 0]], "type"), ((11, 1), None, "type"))),
        ("body", closure, (
            (1, b"", "bound"), (2, long_hash, "bound"), (3, bytes(31), "bound"), (4, 1, "type"),
            (4, None, "type"), (5, CLOCK, "bound"), (5, MISSING, "fields"))),
        ("body", RECORD, (
            (2, bytes(33), "bound"), (3, CLOCK, "bound"), (4, -1, "bound"), (5, CLOCK, "bound"),
            (6, "s" * 65, "bound"), (7, ["r"] * 5, "bound"), (7, [""], "bound"),
            (7, ["r" * 17], "bound"), (7, [b"r"], "type"), (8, 4097, "bound"), (8, -1, "bound"),
            (9, ["a"] * 9, "bound"), (9, ["a" * 201], "bound"), (9, "a", "type"),
            ((10, 0), "D", "bound"), ((10, 0), "a", "bound"), ((10, 0), "", "bound"),
            ((10, 0), None, "type"), ((10, 1), bytes(33), "bound"), ((10, 1), "", "type"),
            ((10, 2), "v" * 33, "bound"), ((10, 2), None, "type"), ((10, 2), MISSING, "fields"),
            (10, None, "type"), (10, MISSING, "fields"))),
        ("body", REQUIREMENT, (
            (1, bytes(31), "bound"), (2, long_hash, "bound"), (2, None, "type"), (3, -1, "bound"),
            (3, CLOCK, "bound"), (4, CLOCK, "bound"), (5, "", "bound"), (5, "1.", "bound"),
            (5, ".1", "bound"), (5, "1..2", "bound"), (5, "1.2.3.4.5", "bound"),
            (5, "1234567", "bound"), (5, "1.32.0rc1", "bound"), (5, "1.32.0\n", "bound"),
            (5, " 1.32", "bound"), (5, "-1", "bound"), (5, "\u0661", "bound"), (5, 1, "type"),
            (5, None, "type"), (5, MISSING, "fields"))),
        ("body", ALICES_PAGE, (
            (1, bytes(31), "bound"), (2, None, "type"), (3, 16, "bound"), (3, -1, "bound"),
            (4, CLOCK, "bound"), (5, CLOCK, "bound"), ((6, 0, 0), bytes(31), "bound"),
            ((6, 0, 1), "n" * 41, "bound"), ((6, 0, 1), "a\nb", "bound"),
            ((6, 0, 1), "\x7f", "bound"), ((6, 0, 2), 1, "type"), ((6, 0, 2), MISSING, "fields"),
            (6, [[high, "", True], [low, "", True]], "order"),
            (6, [[low, "", True], [low, "", False]], "order"), (6, MISSING, "fields"))),
        ("body", invitation(), (
            (3, bytes(31), "bound"), (4, "n" * 41, "bound"), (5, 0, "bound"), (5, 257, "bound"),
            (6, CLOCK, "bound"), (7, CLOCK, "bound"), (7, MISSING, "fields"))),
        ("body", admission(BOB), (
            (2, bytes(31), "bound"), (3, long_hash, "bound"), (4, None, "type"),
            ((4, 2), bytes(63), "bound"), (4, MISSING, "fields"))),
        ("body", acceptance(ALICE, BOB), (
            (2, bytes(31), "bound"), (3, CLOCK, "bound"), (4, [], "fields"),
            (4, MISSING, "fields"))),
        ("message", _named("a roster summary"), (
            (1, [0] * 15, "bound"), (1, [0] * 17, "bound"), (1, [-1] * 16, "bound"),
            (2, [bytes(32)] * 15, "bound"), (2, [bytes(31)] * 16, "bound"),
            (2, MISSING, "fields"))),
        ("network", CLOSED_NETWORK, ((3, None, "bound"), (6, 1, "type"), (6, MISSING, "fields"))),
        ("network", OWNED_NETWORK, (
            (0, "p2pfleet/2/network", "tag"), (2, None, "type"), (3, bytes(31), "bound"),
            (3, long_hash, "bound"), (3, b"", "bound"), (3, "o" * 32, "type"), (3, False, "type"),
            (5, 65, "bound"), (5, MISSING, "fields"))),
        ("body", written, (
            (1, b"", "bound"), (2, b"", "bound"), (3, b"", "bound"), (4, CLOCK, "bound"),
            (5, CLOCK, "bound"), (5, -1, "bound"), (6, [], "bound"), (6, [[]], "fields"),
            (6, [[13, 1]], "tag"), (7, 4_096, "bound"), (7, -1, "bound"),
            (7, MISSING, "fields"))),
        ("entry", _named("a claim"), ((1, [], "bound"), (1, [1_000_000], "bound"),
                                      (1, MISSING, "fields"))),
        ("entry", _named("a release"), ((1, [], "bound"), (1, [1_000_000], "bound"))),
        ("entry", _named("a reveal"), (
            (1, bytes(31), "bound"), (1, long_hash, "bound"), (2, 1024, "bound"), (2, -1, "bound"),
            (3, bytes(31), "bound"), (3, long_hash, "bound"), (4, [], "bound"),
            ((4, 0, 0), 1_000_000, "bound"), ((4, 0, 1), 256, "bound"), ((4, 0, 1), -1, "bound"),
            ((4, 0, 2), bytes(31), "bound"), ((4, 0, 2), long_hash, "bound"),
            ((4, 0, 3), 16 * GIB + 1, "bound"), ((4, 0, 3), MISSING, "fields"),
            (5, [high, low], "order"), (5, [low, low], "order"), (5, [bytes(31)], "bound"),
            (5, None, "type"), (5, MISSING, "fields"))),
        ("entry", _named("a commitment"), (
            (1, bytes(31), "bound"), (1, long_hash, "bound"), (2, [], "bound"),
            ((2, 0, 0), 1_000_000, "bound"), ((2, 0, 1), 256, "bound"),
            ((2, 0, 2), bytes(31), "bound"), ((2, 0, 2), long_hash, "bound"),
            ((2, 0, 2), MISSING, "fields"), (2, MISSING, "fields"))),
        ("entry", _named("an endorsement"), (
            (1, 1_000_000, "bound"), (2, 256, "bound"), ((3, 0), bytes(31), "bound"),
            ((3, 1), 1024, "bound"), ((3, 2), 256, "bound"), ((3, 2), -1, "bound"),
            ((3, 2), MISSING, "fields"), (3, None, "type"), (4, bytes(31), "bound"),
            (4, MISSING, "fields"))),
        ("entry", _named("an audit"), (
            (1, 1_000_000, "bound"), (2, bytes(31), "bound"), (2, MISSING, "fields"))),
        ("entry", _named("opened ringers"), (
            (1, bytes(31), "bound"), (1, long_hash, "bound"), (2, [], "bound"),
            ((2, 0, 0), 1_000_000, "bound"), ((2, 0, 1), bytes(31), "bound"),
            ((2, 0, 1), MISSING, "fields"), (2, MISSING, "fields"))),
        ("body", SNAPSHOT, (
            (1, bytes(31), "bound"), (2, long_hash, "bound"), (3, "", "bound"),
            (3, "m" * 65, "bound"), (4, CLOCK, "bound"), (4, -1, "bound"), (5, CLOCK, "bound"),
            (6, [[high, 1], [low, 1]], "order"), (6, [[low, 1], [low, 2]], "order"),
            (6, [[low, 0]], "bound"), (6, [[low, 1_000_001]], "bound"),
            (6, [[bytes(31), 1]], "bound"), (6, [[low]], "fields"), (6, None, "type"),
            (6, MISSING, "fields"))),
        ("entry", _named("a blob kept"), (
            (1, [], "bound"), (1, [high, low], "order"), (1, [low, low], "order"),
            (1, [bytes(31)], "bound"), (1, [low] * 257, "bound"), (1, None, "type"),
            (1, MISSING, "fields"))),
        ("entry", _named("two blobs dropped"), (
            (1, [], "bound"), (1, [high, low], "order"), (1, [long_hash], "bound"))),
        ("body", JOBS_RECORD, (
            (1, bytes(31), "bound"), (2, long_hash, "bound"), (3, CLOCK, "bound"),
            (4, -1, "bound"), (5, CLOCK, "bound"), (6, None, "type"), (6, [[low]], "fields"),
            (6, [[high, 1], [low, 1]], "order"), (6, [[low, 1], [low, 2]], "order"),
            (6, [[low, CLOCK]], "bound"), (6, [[low, 1]] * 257, "bound"), (6, MISSING, "fields"))),
        ("body", RECEIPT, (
            (1, bytes(31), "bound"), (4, long_hash, "bound"), (5, CLOCK, "bound"),
            (6, 0, "bound"), (6, 1_000_001, "bound"), (7, 0, "bound"), (7, 2**62, "bound"),
            (8, 0, "bound"), (8, 2**63 - 1, "bound"), (9, CLOCK, "bound"), (9, MISSING, "fields"))),
        ("entry", _named("a failure without words"), (
            (1, 1_000_000, "bound"), (2, 256, "bound"), (3, "r" * 201, "bound"),
            (3, None, "type"))),
        ("sealed", sealed, (
            (0, b"", "bound"), (0, "text", "type"), (1, bytes(31), "bound"),
            (2, bytes(63), "bound"), (2, bytes(65), "bound"), (2, MISSING, "fields"))),
        ("certificate", certificate, (
            (0, bytes(31), "bound"), (1, 1_000_000, "bound"), (2, bytes(31), "bound"),
            (3, bytes(31), "bound"), (3, "", "type"), (4, [vote] * 65, "bound"),
            (4, [[digest, 1024, 0]], "bound"), (4, [[digest, -1, 0]], "bound"),
            (4, [[digest, 0, 256]], "bound"), (4, [[digest, 0, -1]], "bound"),
            (4, [[bytes(31), 0, 0]], "bound"), (4, [[digest, 0]], "fields"),
            (5, [vote] * 65, "bound"), (5, None, "type"), (6, [digest, 0], "fields"),
            (6, False, "type"), (6, MISSING, "fields"))),
        ("message", _named("a proof"), (
            (1, None, "type"), (2, [b"x", bytes(32)], "fields"), (2, MISSING, "fields"))),
        ("message", hello, ((0, "helo", "tag"), (1, b"", "bound"), (2, 65_536, "bound"),
                            (2, -1, "bound"), (2, 2, "bound"), (3, 65_536, "bound"),
                            (4, -1, "bound"), (5, [b"x", bytes(32)], "fields"),
                            (5, MISSING, "fields"))),
        ("message", _named("goodbye"), ((1, 4, "bound"), (2, 65_536, "bound"), (3, -1, "bound"),
                                        (4, "s" * 65, "bound"), (4, MISSING, "fields"))),
        ("message", _named("deliver"), ((1, b"", "type"), (1, MISSING, "fields"))),
        ("message", jobs, ((1, [b""], "bound"), (2, [long_hash], "bound"), (2, None, "type"))),
        ("message", frames, ((1, b"", "bound"), (2, [[ID, 0]], "fields"),
                             (2, [[ID, CLOCK, 0]], "bound"), (2, [[ID, 0, CLOCK]], "bound"),
                             (2, [[b"", 0, 0]], "bound"), (3, -2, "bound"), (3, CLOCK, "bound"),
                             (4, 4_096, "bound"), (4, -1, "bound"), (5, 1, "type"),
                             (5, MISSING, "fields"))),
        ("message", _named("a word on one shard"), (
            (1, b"", "bound"), (2, [], "bound"), (2, [[0, 0, 0]], "fields"),
            (2, [[4_096, 0, 0, 0]], "bound"), (2, [[0, 65_536, 0, 0]], "bound"),
            (2, [[0, 0, 1_000_001, 0]], "bound"), (2, [[0, 0, 0, 3_601]], "bound"),
            (2, [[1, 0, 0, 0], [0, 0, 0, 0]], "order"), (2, [[1, 0, 0, 0]] * 2, "order"),
            (2, MISSING, "fields"))),
        ("message", wanted, (
            (1, bytes(31), "bound"), (1, long_hash, "bound"), (2, [], "bound"),
            (2, [1_000_000], "bound"), (2, [-1], "bound"), (2, [True], "type"), (2, 7, "type"),
            (2, MISSING, "fields"), (0, "Wanted", "tag"))),
        ("blob message", want, ((1, b"", "bound"), (2, bytes(35), "bound"),
                                (3, 16 * GIB + 1, "bound"), (4, 16 * GIB + 1, "bound"))),
        ("blob message", have, ((1, 1, "type"), (2, -1, "bound"), (2, 16 * GIB + 1, "bound"))),
        ("bulk message", ticket, ((1, 0, "bound"), (1, 65_536, "bound"), (2, bytes(31), "bound"),
                                  (3, bytes(33), "bound"), (4, 3_600_001, "bound"),
                                  (4, MISSING, "fields"), (0, "Ticket", "tag"))),
        ("bulk message", pieces, ((1, b"", "bound"), (2, bytes(35), "bound"),
                                  (4, 16 * GIB + 1, "bound"), (4, 0, "bound"),
                                  (5, bytes(2049), "bound"), (5, "", "type"),
                                  (6, 0, "bound"), (6, 17, "bound"),
                                  (7, 3_600_001, "bound"))),
        ("bulk message", holds, ((1, 0, "type"), (2, bytes(2049), "bound"),
                                 (3, [16_384], "bound"), (3, [0] * 17, "bound"),
                                 (3, [-1], "bound"), (4, -1, "bound"))),
        ("table", TABLE, (
            (0, [], "bound"), (0, [bytes(35)], "bound"), (1, [], "bound"),
            ((1, 0, 0), 1024, "bound"), ((1, 0, 1), 16 * GIB + 1, "bound"),
            ((1, 0, 2), -1, "bound"), ((1, 0, 3), b"", "bound"), ((1, 0, 3), MISSING, "fields"))),
        ("bundle", (("x", "uint8", (2,), b"ab"),), (
            ((0, 0), "", "bound"), ((0, 0), "x" * 257, "bound"), ((0, 1), "complex64", "bound"),
            ((0, 1), "float", "bound"), ((0, 2), [2] * 17, "bound"), ((0, 2), [-2], "bound"),
            ((0, 2), [2**40], "bound"), ((0, 2), [3], "bundle"), ((0, 2), [], "bundle"),
            ((0, 1), "uint16", "bundle"), ((0, 3), b"abc", "bundle"), ((0, 3), "ab", "type"),
            ((0, 3), MISSING, "fields"))),
    )  # fmt: skip
    for kind, value, wrong in changes:
        for path, new, rule in wrong:
            where = path if isinstance(path, tuple) else (path,)
            raw = msgpack.unpackb(encode(value))
            at = raw
            for step in where[:-1]:
                at = at[step]
            if new is MISSING:
                del at[where[-1]]
            else:
                at[where[-1]] = new
            shown = "left out" if new is MISSING else repr(new)[:40]
            name = type(value).__name__.replace("tuple", "Bundle")
            yield f"{name}, field {list(where)}: {shown}", kind, rule, msgpack.packb(raw)
    twice = [["x", "uint8", [0], b""]] * 2
    yield "two tensors of one name", "bundle", "bundle", msgpack.packb(twice)
    for about, data in (("2", b"\x00\x02"), ("255", b"\xff\x01")):
        truths = [["x", "bool", [2], data]]
        yield f"a bool that holds a {about}", "bundle", "bundle", msgpack.packb(truths)


def _long() -> Iterable[dict[str, Any]]:
    """What is too long or too much; repeated parts are written once, with how often."""
    author = ALICE.peer.hex()
    position = [f"93c420{author}0000", 1025]
    commitment = ["930000c420" + "00" * 32, 257]
    answer = ["940000c420" + "00" * 32 + "00", 257]
    pointer = ["93c420" + "00" * 32 + "0000", 65]
    big = "c5" + (8192).to_bytes(2, "big").hex()
    cases: tuple[tuple[str, str, str, Runs], ...] = (
        ("4097 units in a claim", "entry", "bound", [["9201dc1001", 1], ["07", 4097]]),
        ("1025 entries in a frame", "body", "bound", _frame_of(1025)),
        ("513 open jobs", "message", "bound",
         [["93a46a6f6273dc0201", 1], ["c420" + ID.hex(), 513], ["90", 1]]),
        ("1025 positions", "message", "bound",
         [["97a66672616d6573c420" + ID.hex() + "dc0401", 1], position, ["ff00c3c3", 1]]),
        ("1025 units wanted", "message", "bound",
         [["93a677616e746564c420" + ID.hex() + "dc0401", 1], ["07", 1025]]),
        ("1025 packs", "table", "bound", [["92dc0401", 1], ["c424" + "00" * 36, 1025], ["90", 1]]),
        ("65 tensors", "bundle", "bound", _tensors(65)),
        ("257 commitments under one seed", "entry", "bound",
         [["9305c420" + "00" * 32 + "dc0101", 1], commitment]),
        ("257 revealed together", "entry", "bound",
         [["9603c420" + "00" * 32 + "00c420" + "00" * 32 + "dc0101", 1], answer, ["90", 1]]),
        ("65 votes", "certificate", "bound",
         [["97c420" + "00" * 32 + "00c420" + "00" * 32 + "c0dc0041", 1], pointer, ["90c0", 1]]),
        ("a body of 32 KiB and a byte", "sealed", "bound",
         [["93c58001", 1], ["00", 32 * 1024 + 1], ["c420" + author + "c440" + "00" * 64, 1]]),
        ("a message of 68 KiB and a byte", "message", "size", [["c0", 68 * 1024 + 1]]),
        ("an announcement of 8 KiB and more", "announcement", "size",
         [["93" + big, 1], ["00", 8192], ["c420" + author + "c440" + "00" * 64, 1]]),
        ("a body of 32 KiB and a byte, alone", "body", "size", [["c0", 32 * 1024 + 1]]),
        ("a blob request of 257 bytes", "blob message", "size", [["c0", 257]]),
        ("a bulk message of 2305 bytes", "bulk message", "size", [["c0", 2305]]),
        ("5000 arrays, one in the other", "entry", "syntax", [["91", 5000]]),
        ("an array that claims 4 billion entries", "entry", "syntax", "ddffffffff"),
        ("bytes that claim 4 billion", "sealed", "syntax", "93c6ffffffff"),
    )  # fmt: skip
    for about, kind, rule, runs in cases:
        parts = [[runs, 1]] if isinstance(runs, str) else [run for run in runs if run[1]]
        data = b"".join(bytes.fromhex(part) * times for part, times in parts)
        yield {
            "about": about,
            "kind": kind,
            "rule": rule,
            "encoding": parts,
            "sha256": sha256(data).hex(),
        }


def _frame_of(entries: int) -> list[list[Any]]:
    raw = msgpack.unpackb(encode(_named("a frame with an entry of each kind")))
    head = msgpack.packb([*raw[:-2], [], 0])[:-2]
    many = entries.to_bytes(2, "big").hex()
    return [[head.hex() + "dc" + many, 1], ["92029107", entries], ["00", 1]]


def _tensors(count: int) -> list[list[Any]]:
    return [["dc" + count.to_bytes(2, "big").hex(), 1], ["94a178a575696e74389100c400", count]]
