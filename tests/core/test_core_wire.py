"""The wire: one encoding a value, and every bound enforced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec
import pytest
from core_samples import (
    ALICE,
    BOB,
    CAPABILITY,
    GOOD,
    NETWORK,
    SAMPLE,
    WALL_MS,
    frame,
    manifest,
    seal,
)

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.comparison import OutputTolerance, Tolerance
from p2pfleet.core.model.ids import FrameHash, PeerId, cid_of
from p2pfleet.core.model.job import (
    Confidence,
    Exact,
    FixedQuorum,
    Limits,
    Trust,
    UnitInput,
    UnitTable,
)
from p2pfleet.core.model.network import NetworkParameters
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.names import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from p2pfleet.core.wire.tensors import MAX_TENSORS, Tensor, decode_bundle, digest_of, encode_bundle

CLOSURE = ms.Closure(NETWORK, SAMPLE.job, ALICE, True, WALL_MS)
RECORD = ms.PeerRecord(
    NETWORK,
    ALICE,
    5,
    WALL_MS,
    WALL_MS + 1,
    "p2pfleet/0",
    ("volunteer",),
    4,
    ("/ip4/127.0.0.1",),
    CAPABILITY,
)
REQUIREMENT = ms.Requirement(NETWORK, ALICE, 5, WALL_MS, "1.32.0")
REF = ms.VoteRef(frame(ALICE, ms.Claim((1,))).hash, 3, 2)
ITEM = ms.RevealItem(5, 1, GOOD, 100)
REVEAL = ms.Reveal(REF.frame, 0, bytes(32), (ITEM,), (REF.frame,))
FRAME = ms.Frame(NETWORK, SAMPLE.job, ALICE, 7, 0, (ms.Claim((1, 2)), REVEAL))
SNAPSHOT = ms.Snapshot(NETWORK, ALICE, "any", 3, WALL_MS, (ms.PeerChecks(ALICE, 20),))
RECEIPT = ms.Receipt(NETWORK, SAMPLE.job, ALICE, BOB, 1, 2, 3, 4, WALL_MS)
CID = cid_of(b"x")

MEMBER = ms.MemberEntry(ALICE, "Alice's machine", True)
INVITATION = ms.Invitation(NETWORK, ALICE, BOB, "LAB-PC-7", 1, 7, 9)
ADMISSION = ms.Admission(NETWORK, BOB, ALICE, seal(INVITATION))
SAMPLES: tuple[Any, ...] = (
    manifest(),
    CLOSURE,
    RECORD,
    REQUIREMENT,
    FRAME,
    MEMBER,
    ms.Members(NETWORK, ALICE, ALICE[0] >> 4, 5, 7, (MEMBER,)),
    INVITATION,
    ADMISSION,
    ms.Acceptance(NETWORK, BOB, 8, seal(ADMISSION)),
    ms.RosterSummary((7,) * 16, (bytes(32),) * 16),
    ms.Claim((0, 5)),
    ms.Release((0, 5)),
    ms.Keep((GOOD,)),
    ms.Drop((GOOD,)),
    ms.OwnJob(SAMPLE.job, WALL_MS),
    ms.JobsRecord(NETWORK, ALICE, 5, WALL_MS, WALL_MS + 1, (ms.OwnJob(SAMPLE.job, 7),)),
    REVEAL,
    ITEM,
    ms.CommitItem(5, 1, bytes(32)),
    ms.Commit(bytes(32), (ms.CommitItem(5, 1, bytes(32)),)),
    ms.Endorse(5, 1, REF, GOOD),
    ms.Audit(5, GOOD),
    ms.Ringer(5, GOOD),
    ms.OpenRingers(bytes(32), (ms.Ringer(5, GOOD),)),
    ms.PeerChecks(ALICE, 20),
    SNAPSHOT,
    RECEIPT,
    ms.Failure(5, 0, "cpu: too long"),
    seal(CLOSURE),
    REF,
    ms.Certificate(SAMPLE.job, 3, GOOD, GOOD, (REF, REF), (REF,), REF),
    ms.Certificate(SAMPLE.job, 3, GOOD, None, ()),
    ms.Proof(seal(FRAME), seal(FRAME)),
    ms.Hello(NETWORK, 1, 1, 0, seal(RECORD)),
    ms.Goodbye(2, 3, 1, "p2pfleet/2.0.0"),
    ms.Deliver(seal(CLOSURE)),
    ms.JobsSummary((SAMPLE.job,), ()),
    ms.AuthorPosition(ALICE, 7, 3),
    ms.FramesSummary(SAMPLE.job, (ms.AuthorPosition(ALICE, 7, 3),)),
    ms.FramesSummary(SAMPLE.job, (), 2**53 - 1),
    ms.FramesSummary(SAMPLE.job, (), -1, 7, False),
    ms.ShardRow(7, 3, 20, 5),
    ms.ShardsSummary(SAMPLE.job, (ms.ShardRow(7, 3, 20, 5),)),
    ms.Wanted(SAMPLE.job, (0, 7)),
    ms.BlobRequest(NETWORK, CID, 0, 10),
    ms.BlobHeader(True, 10),
    ms.TicketRequest(NETWORK),
    ms.Ticket(4002, bytes(32), bytes(32), 20_000),
    ms.NoTicket(5_000),
    ms.PiecesRequest(NETWORK, CID, 0, 10, b"\x01", 4, 0),
    ms.Pieces(False, b"\x01", (0, 3), 0),
    Limits(2**28, 1000, 1000),
    Exact(),
    FixedQuorum(2, 5),
    Confidence(1_000_000, 200_000, 16),
    Trust("vision", GOOD, GOOD, 50_000, 30, 1_000, 1_000),
    Tolerance((OutputTolerance("scores", 1, 1),)),
    UnitInput(0, 0, 10, GOOD),
    UnitTable((CID,), (UnitInput(0, 0, 10, GOOD),)),
    NetworkParameters("testnet", True),
    NetworkParameters("testnet", True, ALICE, 18, 3),
    CAPABILITY,
    Tensor("x", "int8", (2,), b"ab"),
)


def arrays(value: Any) -> Any:
    """A message as plain arrays, to be changed and packed by another library."""
    return msgpack.unpackb(encode(value))


def pack(plain: Any) -> bytes:
    packed: bytes = msgpack.packb(plain)
    return packed


def refused(data: bytes, kind: Any) -> str:
    with pytest.raises(Malformed) as caught:
        decode(data, kind, MAX_MESSAGE_BYTES)
    return str(caught.value)


# ---- one encoding a value --------------------------------------------------------------------


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_a_message_comes_back_and_another_library_writes_the_same_bytes(value: Any) -> None:
    data = encode(value)
    assert decode(data, type(value), MAX_MESSAGE_BYTES) == value
    assert pack(arrays(value)) == data


def test_every_type_of_the_wire_has_a_sample() -> None:
    kinds = {
        kind
        for kind in vars(ms).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == ms.__name__
        and not kind.__name__.startswith("_")
    }
    assert kinds <= {type(value) for value in SAMPLES}


def test_an_integer_that_is_not_the_shortest_is_refused() -> None:
    data = encode(ms.AuthorPosition(ALICE, 7, 3))
    assert data.endswith(b"\x07\x03")
    for longer in (b"\xcc\x03", b"\xcd\x00\x03", b"\xce\0\0\0\x03", b"\xcf" + bytes(7) + b"\x03"):
        assert refused(data[:-1] + longer, ms.AuthorPosition) == "not the canonical encoding"
    for signed in (b"\xd0\x03", b"\xd1\x00\x03", b"\xd3" + bytes(7) + b"\x03"):
        assert refused(data[:-1] + signed, ms.AuthorPosition) == "not the canonical encoding"


def test_a_length_that_is_not_the_shortest_is_refused() -> None:
    data = encode(ms.BlobHeader(True, 10))
    assert data[0] == 0x93
    for longer in (b"\xdc\x00\x03", b"\xdd\x00\x00\x00\x03"):
        assert refused(longer + data[1:], ms.BlobHeader) == "not the canonical encoding"
    assert data[1:6] == b"\xa4have"
    assert refused(data[:1] + b"\xd9\x04" + data[2:], ms.BlobHeader)


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_trailing_and_missing_bytes_are_refused(value: Any) -> None:
    data = encode(value)
    refused(data + b"\x00", type(value))
    refused(data + data, type(value))
    refused(data[:-1], type(value))
    refused(b"", type(value))


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_fields_too_many_or_too_few_are_refused(value: Any) -> None:
    plain = arrays(value)
    refused(pack([*plain, 0]), type(value))
    refused(pack([*plain, None]), type(value))
    if plain:
        refused(pack(plain[:-1]), type(value))


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_a_map_in_the_place_of_an_array_is_refused(value: Any) -> None:
    fields = {field.name: getattr(value, field.name) for field in msgspec.structs.fields(value)}
    refused(msgspec.msgpack.encode(fields), type(value))


def test_a_float_a_bool_or_a_text_in_the_place_of_an_integer_is_refused() -> None:
    for wrong in (10.0, True, "10", None, [10], b"\x0a"):
        refused(pack(["have", True, wrong]), ms.BlobHeader)


def test_a_text_in_the_place_of_bytes_is_refused_and_so_is_the_reverse() -> None:
    refused(pack(["a" * 32, 7, 3]), ms.AuthorPosition)
    refused(pack([b"have", True, 10]), ms.BlobHeader)


def test_an_unknown_tag_is_refused() -> None:
    refused(pack(["other", True, 10]), ms.BlobHeader)
    refused(pack([13, [1]]), ms.Entry)
    refused(pack(["deliver", 1]), ms.Message)


def test_a_body_of_one_type_is_not_taken_for_another() -> None:
    bodies = [value for value in SAMPLES if isinstance(value, ms._Body)]
    assert len(bodies) == 12
    for body in bodies:
        for other in bodies:
            if other is not body:
                refused(encode(body), type(other))


def test_more_bytes_than_the_limit_are_not_even_looked_at() -> None:
    data = encode(CLOSURE)
    assert decode(data, ms.Closure, len(data)) == CLOSURE
    with pytest.raises(Malformed, match="bytes where at most"):
        decode(data, ms.Closure, len(data) - 1)


def test_deep_nesting_and_false_lengths_are_refused() -> None:
    refused(b"\x91" * 60_000, ms.Message)
    refused(b"\x91" * 60_000, UnitTable)
    refused(b"\xdd\xff\xff\xff\xff", ms.JobsSummary)
    refused(b"\x93\xa4jobs\xdd\xff\xff\xff\xff", ms.JobsSummary)
    refused(b"\xc6\xff\xff\xff\xff", ms.Message)
    refused(b"\xc1", ms.Message)


def test_a_refusal_names_the_field() -> None:
    plain = arrays(manifest())
    plain[1] = b"short"
    assert "$[1]" in refused(pack(plain), ms.Manifest)


# ---- bounds ----------------------------------------------------------------------------------


def _beyond(info: msgspec.inspect.Type, valid: Any) -> Iterator[tuple[str, Any]]:
    """Values just outside each bound that a field's type states."""
    match info:
        case msgspec.inspect.IntType(ge=low, gt=above, le=high, lt=below):
            assert (low, above) != (None, None)
            assert (high, below) != (None, None)
            yield "too low", low - 1 if low is not None else above
            yield "too high", high + 1 if high is not None else below
        case msgspec.inspect.BytesType(min_length=low, max_length=high):
            if high is not None:
                yield "too long", bytes(high + 1)
            if low:
                yield "too short", bytes(low - 1)
        case msgspec.inspect.StrType(min_length=low, max_length=high):
            assert high is not None
            yield "too long", "x" * (high + 1)
            if low:
                yield "too short", "x" * (low - 1)
        case msgspec.inspect.VarTupleType(min_length=low, max_length=high, item_type=item):
            assert high is not None
            yield "too many", [valid[0] if valid else _least(item)] * (high + 1)
            if low:
                yield "too few", []
            if valid:
                for name, wrong in _beyond(item, valid[0]):
                    yield f"an item {name}", [wrong, *valid[1:]]
        case _:
            return


def _least(info: msgspec.inspect.Type) -> Any:
    match info:
        case msgspec.inspect.StructType(tag=None, fields=fields):
            return [_least(field.type) for field in fields]
        case msgspec.inspect.IntType(ge=int(low)):
            return low
        case msgspec.inspect.BytesType(min_length=low):
            return bytes(low or 0)
        case msgspec.inspect.StrType(min_length=low):
            return "x" * (low or 0)
    raise AssertionError(info)


def _bounds() -> Iterator[Any]:
    for value in SAMPLES:
        kind = type(value)
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        plain = arrays(value)
        start = 0 if info.tag is None else 1
        for number, field in enumerate(info.fields):
            for name, wrong in _beyond(field.type, plain[start + number]):
                changed = [*plain]
                changed[start + number] = wrong
                yield pytest.param(kind, changed, id=f"{kind.__name__}.{field.name} {name}")


@pytest.mark.parametrize(("kind", "plain"), list(_bounds()))
def test_a_field_beyond_its_bound_is_refused(kind: Any, plain: Any) -> None:
    with pytest.raises(Malformed) as caught:
        decode(pack(plain), kind, 2**30)
    assert str(caught.value) != "not the canonical encoding"


def test_every_field_of_the_wire_is_bounded() -> None:
    unbounded = []
    for value in SAMPLES:
        info = msgspec.inspect.type_info(type(value))
        assert isinstance(info, msgspec.inspect.StructType)
        unbounded += [
            f"{type(value).__name__}.{field.name}"
            for field in info.fields
            if isinstance(field.type, msgspec.inspect.BytesType | msgspec.inspect.StrType)
            and field.type.max_length is None
        ]
    # A tensor's data is bounded by its shape and by the limit of the bundle.
    assert unbounded == ["Tensor.data"]


def test_the_largest_summaries_fit_a_message() -> None:
    jobs = ms.JobsSummary((SAMPLE.job,) * 512, (SAMPLE.job,) * 512)
    positions = ms.FramesSummary(
        SAMPLE.job, (ms.AuthorPosition(ALICE, 2**53 - 1, 2**53 - 1),) * 1024
    )
    for message in (jobs, positions):
        assert decode(encode(message), ms.Message, MAX_MESSAGE_BYTES) == message


def test_the_largest_frame_fits_a_message_and_so_do_two_in_a_proof() -> None:
    sealed = ms.Sealed(bytes(MAX_FRAME_BYTES), ALICE, bytes(64))
    assert len(encode(ms.Deliver(sealed))) <= MAX_MESSAGE_BYTES
    assert len(encode(ms.Proof(sealed, sealed))) <= MAX_MESSAGE_BYTES


def test_the_largest_snapshot_fits_a_body() -> None:
    peers = [ms.PeerChecks(PeerId(n.to_bytes(32, "big")), 10**6) for n in range(768)]
    body = ms.Snapshot(NETWORK, ALICE, "m" * 64, 2**53 - 1, 2**53 - 1, tuple(peers))
    assert len(encode(body)) <= MAX_FRAME_BYTES


def test_the_largest_entries_fit_a_frame() -> None:
    items = tuple(ms.CommitItem(999_999, 255, bytes(32)) for _ in range(ms.COMMIT_ITEMS_MAX))
    reveals = tuple(ms.RevealItem(999_999, 255, GOOD, 2**34) for _ in items)
    seen = tuple(FrameHash(n.to_bytes(32, "big")) for n in range(ms.SEEN_MAX))
    ringers = tuple(ms.Ringer(999_999, GOOD) for _ in range(ms.RINGERS_MAX))
    for entry in (
        ms.Commit(bytes(32), items),
        ms.Reveal(REF.frame, 1023, bytes(32), reveals, seen),
        ms.OpenRingers(bytes(32), ringers),
        ms.Claim((999_999,) * 4096),
    ):
        body = msgspec.structs.replace(FRAME, entries=(entry,))
        assert len(encode(body)) <= MAX_FRAME_BYTES


# ---- order -----------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [[0, 0], [1, 0], [0, 2, 1], [0, 1, 1]])
def test_what_has_to_ascend_is_refused_in_another_order(turn: list[int]) -> None:
    hashes = [bytes([number]) * 32 for number in turn]
    reveal, snapshot, tolerance = arrays(REVEAL), arrays(SNAPSHOT), arrays(Tolerance())
    reveal[5] = hashes
    snapshot[6] = [[key, 1] for key in hashes]
    tolerance[1] = [[key.hex(), 1, 1] for key in hashes]
    for plain, kind in ((reveal, ms.Reveal), (snapshot, ms.Snapshot), (tolerance, Tolerance)):
        assert "ascending" in refused(pack(plain), kind)


# ---- tensor bundles --------------------------------------------------------------------------

TENSOR = Tensor("x", "float32", (2, 3), bytes(24))


def test_a_bundle_comes_back_and_its_digest_covers_names_types_and_shapes() -> None:
    variants = [
        (TENSOR,),
        (msgspec.structs.replace(TENSOR, name="y"),),
        (msgspec.structs.replace(TENSOR, dtype="int32"),),
        (msgspec.structs.replace(TENSOR, shape=(3, 2)),),
        (msgspec.structs.replace(TENSOR, data=bytes(23) + b"\x01"),),
        (),
    ]
    for bundle in variants:
        assert decode_bundle(encode_bundle(bundle), 1000) == bundle
    assert len({digest_of(encode_bundle(bundle)) for bundle in variants}) == len(variants)


def test_a_scalar_and_an_empty_tensor_are_tensors() -> None:
    bundle = (Tensor("s", "bool", (), b"\x01"), Tensor("e", "int64", (0, 2**40 - 1), b""))
    assert decode_bundle(encode_bundle(bundle), 1000) == bundle


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        ((TENSOR, TENSOR), "two tensors are named 'x'"),
        ((msgspec.structs.replace(TENSOR, data=bytes(23)),), "holds 23 bytes"),
        ((msgspec.structs.replace(TENSOR, data=bytes(25)),), "holds 25 bytes"),
        ((msgspec.structs.replace(TENSOR, shape=(2**39,) * 16),), "needs"),
        ((msgspec.structs.replace(TENSOR, shape=(1,) * 17),), "length <= 16"),
        ((msgspec.structs.replace(TENSOR, dtype="complex64"),), "complex64"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(bundle: Any, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        decode_bundle(encode_bundle(bundle), 1000)


def test_a_bundle_of_too_many_tensors_or_bytes_is_refused() -> None:
    many = tuple(Tensor(str(number), "int8", (0,), b"") for number in range(MAX_TENSORS + 1))
    assert len(decode_bundle(encode_bundle(many[:-1]), 10_000)) == MAX_TENSORS
    with pytest.raises(Malformed):
        decode_bundle(encode_bundle(many), 10_000)
    with pytest.raises(Malformed, match="at most 10 are allowed"):
        decode_bundle(encode_bundle((TENSOR,)), 10)
