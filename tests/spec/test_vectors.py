"""p2pfleet's own code against the vectors of the protocol.

The other implementation, which knows nothing of this one, is run in ``test_checker.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfleet.adapters.inputs.outputs import outputs_path, read_outputs_file, write_outputs
from p2pfleet.core.effects import Effect, Report, SaveFrame, SaveRequirement, Send
from p2pfleet.core.errors import Accept, Ignore, Malformed, Reject, Verdict
from p2pfleet.core.events import (
    FrameReceived,
    HelloReceived,
    ManifestReceived,
    PeerConnected,
    RequirementReceived,
    RestoreFinished,
    Started,
)
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.custody import Custody
from p2pfleet.core.machines.frames import FrameLog
from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.model import puzzle
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import (
    Digest,
    FrameHash,
    JobId,
    Millis,
    NetworkId,
    PeerId,
    cid_of,
    cid_text,
    parse_cid,
    parse_job,
    parse_peer,
    peer_text,
    sha256,
)
from p2pfleet.core.model.job import Confidence, FixedQuorum, StopRule, UnitTable
from p2pfleet.core.model.network import NetworkParameters, NetworkTerms, network_id, network_terms
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules import (
    admission,
    certificate,
    claims,
    commitment,
    reputation,
    shards,
    sortition,
)
from p2pfleet.core.rules.consent import judge_requirement, version_at_least
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import (
    AuthorPosition,
    BlobMessage,
    BulkMessage,
    Certificate,
    Claim,
    Closure,
    Entry,
    Frame,
    Message,
    Sealed,
    SignedBody,
    VoteRef,
)
from p2pfleet.core.wire.names import (
    MAX_ANNOUNCEMENT_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_TABLE_BYTES,
    announcements_topic,
    rendezvous_key,
)
from p2pfleet.core.wire.tensors import decode_bundle, digest_of
from p2pfleet.core.wire.verified import (
    VerifiedClosure,
    VerifiedFrame,
    VerifiedManifest,
    VerifiedRecord,
    VerifiedRequirement,
    VerifiedSnapshot,
)
from p2pfleet.runtime.reception import announcement_validator
from p2pfleet.runtime.signing import Signer, open_bytes, open_sealed
from p2pfleet.runtime.workshop import checked_table

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
NOW = Millis(1000)
CAPABILITY = Capability("A", b"", "1.32.0")
KINDS: dict[str, tuple[Any, int]] = {
    "body": (SignedBody, MAX_FRAME_BYTES),
    "entry": (Entry, MAX_FRAME_BYTES),
    "sealed": (Sealed, MAX_MESSAGE_BYTES),
    "announcement": (Sealed, MAX_ANNOUNCEMENT_BYTES),
    "message": (Message, MAX_MESSAGE_BYTES),
    "blob message": (BlobMessage, 256),
    "bulk message": (BulkMessage, 2304),
    "network": (NetworkParameters, 1024),
    "table": (UnitTable, MAX_TABLE_BYTES),
    "certificate": (Certificate, MAX_FRAME_BYTES),
}

Case = dict[str, Any]


def cases(name: str) -> list[Any]:
    document = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return [pytest.param(case, id=case["about"][:60]) for case in document["cases"]]


def read(kind: str, data: bytes) -> Any:
    if kind == "bundle":
        return decode_bundle(data, 16 * 2**30)
    return decode(data, *KINDS[kind])


def described(value: Any) -> Any:
    match value:
        case msgspec.Struct():
            named = {} if value.__struct_config__.tag is None else {"is": type(value).__name__}
            return named | {one: described(getattr(value, one)) for one in value.__struct_fields__}
        case bytes():
            return value.hex()
        case tuple():
            return [described(one) for one in value]
        case _:
            return value


def expand(given: str | list[list[Any]]) -> bytes:
    if isinstance(given, str):
        return bytes.fromhex(given)
    return b"".join(bytes.fromhex(part) * times for part, times in given)


def kind_of(verdict: Verdict) -> str:
    kinds = (Accept, Ignore, Reject)
    return next(kind.__name__.lower() for kind in kinds if isinstance(verdict, kind))


@pytest.mark.parametrize("case", cases("identities"))
def test_a_key_has_the_peer_id_that_libp2p_gives_it(case: Case) -> None:
    if "refused" in case:
        with pytest.raises(Malformed):
            parse_peer(case["refused"])
        return
    signer = Signer(bytes.fromhex(case["seed"]))
    assert signer.peer.hex() == case["public_key"]
    assert peer_text(signer.peer) == case["peer_id"]
    assert parse_peer(case["peer_id"]) == signer.peer


@pytest.mark.parametrize("case", cases("networks"))
def test_a_network_is_named_by_its_parameters(case: Case) -> None:
    given = dict(case["parameters"])
    given["owner"] = None if given["owner"] is None else bytes.fromhex(given["owner"])
    fields = ("p2pfleet/1/network", *given.values())
    if "refused" in case:
        with pytest.raises(Malformed):
            read("network", encode(fields))
        return
    parameters = read("network", encode(fields))
    network = network_id(parameters)
    assert encode(parameters).hex() == case["encoding"]
    assert network.hex() == case["id"]
    assert announcements_topic(network) == case["topic"]
    assert rendezvous_key(network).hex() == case["rendezvous_key"]


@pytest.mark.parametrize("case", cases("cids"))
def test_a_content_has_the_cid_that_other_tools_give_it(case: Case) -> None:
    if "refused" in case:
        with pytest.raises(Malformed):
            parse_cid(case["refused"])
        return
    cid = cid_of(bytes.fromhex(case["content"]))
    assert (cid.hex(), cid_text(cid)) == (case["cid"], case["text"])
    assert parse_cid(case["text"]) == cid


@pytest.mark.parametrize("case", cases("job_ids"))
def test_a_job_id_is_written_in_one_way(case: Case) -> None:
    if "refused" in case:
        with pytest.raises(Malformed):
            parse_job(case["refused"])
        return
    assert parse_job(case["text"]).hex() == case["job"]


@pytest.mark.parametrize("case", cases("messages"))
def test_a_message_has_this_one_encoding(case: Case) -> None:
    data = expand(case["encoding"])
    value = read(case["kind"], data)
    assert described(value) == case["value"]
    assert encode(value) == data


@pytest.mark.parametrize("case", cases("refused"))
def test_what_is_not_a_message_is_refused(case: Case) -> None:
    with pytest.raises(Malformed):
        read(case["kind"], expand(case["encoding"]))


@pytest.mark.parametrize("case", cases("sealed"))
def test_a_signature_counts_for_the_body_it_covers_and_the_peer_it_names(case: Case) -> None:
    data = bytes.fromhex(case["encoding"])
    if case["rule"] is None:
        assert open_bytes(data).sealed.hash.hex() == case["hash"]
        return
    sealed = read("sealed", data)
    with pytest.raises(Malformed):
        open_sealed(sealed)


@pytest.mark.parametrize("case", cases("bundles"))
def test_a_bundle_has_one_digest_and_one_file(case: Case, tmp_path: Path) -> None:
    data = bytes.fromhex(case["encoding"])
    assert described(decode_bundle(data, len(data))) == case["tensors"]
    assert digest_of(data).hex() == case["digest"]
    if "file" in case:
        write_outputs(tmp_path, 7, data)
        assert outputs_path(tmp_path, 7).read_bytes().hex() == case["file"]
        assert read_outputs_file(outputs_path(tmp_path, 7)) == data


def opened_manifest(case: Case) -> VerifiedManifest:
    manifest = open_bytes(bytes.fromhex(case["manifest"]))
    assert isinstance(manifest, VerifiedManifest)
    assert manifest.job.hex() == case["job"]
    return manifest


@pytest.mark.parametrize("case", cases("records"))
def test_what_a_peer_says_of_itself_is_judged(case: Case) -> None:
    record = open_bytes(bytes.fromhex(case["record"]))
    assert isinstance(record, VerifiedRecord)
    terms = network_terms(parameters(case["network"]))
    verdict = admission.judge_record(record.record, terms, case["wall_ms"])
    assert kind_of(verdict) == case["verdict"].split()[0]
    effects = greeted(record, terms, case["wall_ms"])
    reports = [effect.verdict for effect in effects if isinstance(effect, Report)]
    if case["verdict"] == "accept":
        assert reports == []
        assert any(isinstance(effect, Send) for effect in effects), "the greeting is answered"
    else:
        assert reports == [verdict]
        assert not any(isinstance(effect, Send) for effect in effects)


def parameters(network: Case) -> NetworkParameters:
    owner = None if network["owner"] is None else PeerId(bytes.fromhex(network["owner"]))
    return NetworkParameters(**{**network, "owner": owner})


@pytest.mark.parametrize("case", cases("puzzles"))
def test_a_key_fits_a_network_or_not(case: Case) -> None:
    terms = network_terms(parameters(case["network"]))
    key = PeerId(bytes.fromhex(case["key"]))
    assert terms.id.hex() == case["network_id"]
    assert puzzle.work(terms.id, key) == case["zero_bits"]
    assert puzzle.fits(terms, key) == case["fits"]


@pytest.mark.parametrize("case", cases("requirements"))
def test_what_somebody_asks_of_a_network_is_judged(case: Case) -> None:
    asked = open_bytes(bytes.fromhex(case["requirement"]))
    assert isinstance(asked, VerifiedRequirement)
    assert asked.sealed.hash.hex() == case["hash"]
    given = parameters(case["network"])
    network = network_id(given)
    assert network.hex() == case["network_id"]
    verdict = judge_requirement(asked.requirement, network, given.owner, case["known"])
    assert kind_of(verdict) == case["verdict"].split()[0]
    effects = asked_of(asked, given, case["known"])
    assert [effect.verdict for effect in effects if isinstance(effect, Report)] == [verdict]
    saved = [effect.requirement for effect in effects if isinstance(effect, SaveRequirement)]
    assert saved == ([asked.sealed] if case["verdict"] == "accept" else [])


def asked_of(
    asked: VerifiedRequirement, network: NetworkParameters, known: int | None
) -> list[Effect]:
    """What a node does that knows the requirement of this sequence and is told of another."""
    consent = Consent(CAPABILITY, owner=network.owner)
    if known is not None:
        before = msgspec.structs.replace(asked.requirement, sequence=known)
        consent.requirement = VerifiedRequirement(asked.sealed, before)
    node = Node.create(PeerId(bytes(32)), network_id(network), 0, (), consent)
    node.handle(Started(1, 0, "", ()), NOW)
    node.handle(RestoreFinished(), NOW)
    return node.handle(RequirementReceived(PeerId(bytes(32 * [1])), asked), NOW)


@pytest.mark.parametrize("case", cases("versions"))
def test_versions_are_compared_by_their_numbers(case: Case) -> None:
    assert version_at_least(case["version"], case["minimum"]) == case["fits"]


def greeted(record: VerifiedRecord, terms: NetworkTerms, wall_ms: int) -> list[Effect]:
    """What a node does that is greeted with this record."""
    consent = Consent(CAPABILITY)
    node = Node.create(PeerId(bytes(32)), terms.id, 0, (), consent, terms)
    node.handle(Started(1, wall_ms, "", ()), NOW)
    node.handle(RestoreFinished(), NOW)
    node.handle(PeerConnected(record.record.peer), NOW)
    return node.handle(HelloReceived(record.record.peer, record), NOW)


@pytest.mark.parametrize("case", cases("jobs"))
def test_what_belongs_to_a_job_is_judged(case: Case) -> None:
    manifest = opened_manifest(case)
    verdict: Verdict
    match case["judged"]:
        case "manifest":
            terms = network_terms(parameters(case["network"]))
            verdict = admission.judge_manifest(manifest.manifest, terms, case["wall_ms"])
        case "closure":
            closure = open_bytes(bytes.fromhex(case["sealed"]))
            assert isinstance(closure, VerifiedClosure)
            verdict = admission.judge_closure(closure.closure, manifest.manifest)
        case "frame":
            frame = open_bytes(bytes.fromhex(case["sealed"]))
            assert isinstance(frame, VerifiedFrame)
            bits = case["network"]["puzzle_bits"]
            verdict = publisher_receives(manifest, frame, bits)
        case _:
            assert table_fits(bytes.fromhex(case["table"]), manifest) == (
                case["verdict"] == "accept"
            )
            return
    assert kind_of(verdict) == case["verdict"].split()[0]


@pytest.mark.parametrize(
    "case", [one for one in cases("jobs") if one.values[0]["judged"] == "manifest"]
)
def test_an_announced_manifest_is_judged_before_it_is_handed_on(case: Case) -> None:
    terms = network_terms(parameters(case["network"]))
    validate = announcement_validator(terms, FixedClock(case["wall_ms"]))
    verdict = validate(PeerId(bytes(32)), bytes.fromhex(case["manifest"]))
    assert kind_of(verdict) == case["verdict"].split()[0]


def test_only_manifests_and_closures_of_the_network_are_handed_on() -> None:
    terms = network_terms(NetworkParameters("vectors", True))
    validate = announcement_validator(terms, FixedClock(0))
    found = {}
    for case in (one.values[0] for one in cases("sealed")):
        verdict = validate(PeerId(bytes(32)), bytes.fromhex(case["encoding"]))
        found[case["about"]] = kind_of(verdict)
    assert found["a closure: complete"] == "accept"
    assert found["a manifest"] == "ignore", "issued in the future, by a clock that stands at zero"
    assert found["a peer record"] == "reject"
    assert found["a requirement"] == "reject"
    assert found["a frame with an entry of each kind"] == "reject"
    assert found["a bit of the signature flipped"] == "reject"


@pytest.mark.parametrize("name", ["publisher", "mallory"])
def test_a_closure_is_handed_on_if_the_key_that_signed_it_fits_the_network(name: str) -> None:
    case = next(
        one.values[0] for one in cases("puzzles")
        if one.values[0]["about"].startswith(f"the key of {name} on network puzzle")
    )  # fmt: skip
    signer = Signer(sha256(b"p2pfleet vectors: " + name.encode()))
    assert signer.peer.hex() == case["key"]
    terms = network_terms(parameters(case["network"]))
    closure = signer.seal(Closure(terms.id, JobId(bytes(32)), signer.peer, True, 0))
    verdict = announcement_validator(terms, FixedClock(0))(PeerId(bytes(32)), encode(closure))
    assert kind_of(verdict) == ("accept" if case["fits"] else "reject")


@dataclass(frozen=True)
class FixedClock:
    wall: int

    def wall_ms(self) -> int:
        return self.wall

    def monotonic_ms(self) -> int:
        return 0


def publisher_receives(
    manifest: VerifiedManifest, frame: VerifiedFrame, puzzle_bits: int = 0
) -> Verdict:
    """What the node that published the job says to a frame of it."""
    stranger = PeerId(bytes(32))
    body = manifest.manifest
    consent = Consent(CAPABILITY)
    terms = NetworkTerms(body.network, puzzle_bits)
    node = Node.create(body.publisher, body.network, 0, (), consent, terms)
    node.handle(Started(1, body.issued_ms, "", ()), NOW)
    node.handle(RestoreFinished(), NOW)
    node.handle(ManifestReceived(node.me, manifest), NOW)
    effects = node.handle(FrameReceived(stranger, frame), NOW)
    reports = [effect for effect in effects if isinstance(effect, Report)]
    if reports:
        assert reports[0].peer == stranger
        return reports[0].verdict
    assert any(isinstance(effect, SaveFrame) for effect in effects)
    return Accept()


def table_fits(data: bytes, manifest: VerifiedManifest) -> bool:
    body = manifest.manifest
    if len(data) != body.table_bytes or cid_of(data) != body.table:
        return False  # it is not the blob that the manifest names, so it is never fetched
    try:
        checked_table(data, body)
    except Malformed:
        return False
    return True


@pytest.mark.parametrize("case", cases("frames"))
def test_a_frame_log_knows_what_is_here_and_what_others_lack(case: Case) -> None:
    job = JobId(bytes(32))
    log = FrameLog(job)

    def author(label: str) -> PeerId:
        return PeerId(label.encode() * 32)

    for label, incarnation, first, times, entries, verdict in case["arrivals"]:
        for sequence in range(first, first + times):
            claim = Claim((0,) * entries)
            body = Frame(job, job, author(label), incarnation, sequence, (claim,))  # type: ignore[arg-type]
            name = FrameHash(sha256(f"{label} {incarnation} {sequence}".encode()))
            frame = VerifiedFrame(Sealed(b"-", body.author, bytes(64)), name, body)
            refusal = log.admit(frame, case["units"], case["leases"])
            assert (refusal is None) == (verdict == "accept"), refusal
    positions = [[author(one), incarnation, at] for one, incarnation, at in case["positions"]]
    assert [[one.author, one.incarnation, one.next_sequence] for one in log.positions()] == (
        positions
    )
    for peer, theirs, replies in case["summaries"]:
        given = tuple(AuthorPosition(author(one), number, at) for one, number, at in theirs)
        answer = log.missing(author(peer), given)
        assert [[one.author, one.incarnation, one.first, one.end] for one in answer] == [
            [author(one), incarnation, first, end] for one, incarnation, first, end in replies
        ]


@pytest.mark.parametrize("case", cases("claims"))
def test_claims_follow_from_ranks_and_shares(case: Case) -> None:
    if "held" in case:
        terms = (case["mean_ms"], case["slots"], case["remaining"], case["volunteers"])
        assert claims.lease_units(*terms) == case["held"]
        return
    salt = bytes.fromhex(case["salt"])
    if "order" in case:
        peer = PeerId(bytes.fromhex(case["peer"]))
        assert claims.preference(salt, case["units"], peer) == case["order"]
        return
    peers = [PeerId(bytes.fromhex(one)) for one in case["ranks"]]
    for peer in peers:
        assert claims.rank(salt, case["unit"], peer).hex() == case["ranks"][peer.hex()]
    for numbers, wanted, staying in case["meetings"]:
        for number, stays in zip(numbers, staying, strict=True):
            others = [peers[one] for one in numbers if one != number]
            gives_way = claims.gives_way(salt, case["unit"], peers[number], others, wanted)
            assert gives_way != stays


@pytest.mark.parametrize("case", cases("shards"))
def test_shards_and_who_serves_them_follow_from_the_salt(case: Case) -> None:
    salt, shard = bytes.fromhex(case.get("salt", "")), case.get("shard", 0)

    def peer(text: str) -> PeerId:
        return PeerId(bytes.fromhex(text))

    match case["judged"]:
        case "units":
            units, count = case["units"], case["shards"]
            assert list(shards.shuffle(salt, units)) == case["shuffle"]
            parts = [shards.units_of(salt, units, count, one) for one in range(count)]
            assert parts == case["parts"]
            assert [shards.size_of(units, count, one) for one in range(count)] == [*map(len, parts)]
            for one, part in enumerate(parts):
                assert {shards.shard_of(salt, units, count, unit) for unit in part} == {one}
        case "unit":
            given = (case["units"], case["shards"], case["unit"])
            assert shards.shard_of(salt, *given) == shard
        case "order":
            mine = peer(case["peer"])
            assert shards.preference(salt, len(case["ranks"]), mine) == case["order"]
            ranks = [shards.rank(salt, one, mine).hex() for one in range(len(case["ranks"]))]
            assert ranks == case["ranks"]
        case "full":
            everybody = [peer(text) for text, _, _ in case["members"]]
            for one, (_, _, stays) in zip(everybody, case["members"], strict=True):
                mates = [mate for mate in everybody if mate != one]
                assert shards.crowded_out(salt, shard, one, mates) != stays
            assert [one.hex() for one in shards.keepers(salt, shard, everybody)] == case["keepers"]
        case "called":
            given = (case["lacking"], case["volunteers"], case["doublings"])
            for text, rank, called in case["peers"]:
                assert shards.rank(salt, shard, peer(text)).hex() == rank
                assert shards.called(salt, shard, peer(text), *given) == called
        case "lacking":
            work = (case["open"], case["replicas"], case["unit_ms"])
            assert shards.lacking(*work, case["members"]) == case["lacking"]
        case "meeting":
            job = JobId(bytes.fromhex(case["job"]))
            assert shards.meeting_key(job, shard).hex() == case["key"]
        case "starving":
            common = [shards.common_order(salt, one).hex() for one, _ in case["members"]]
            assert common == case["common"]
            assert shards.most_starving(salt, dict(case["members"])) == case["order"]
        case judged:
            raise AssertionError(judged)


@pytest.mark.parametrize("case", cases("commitments"))
def test_a_commitment_binds_the_bytes_to_the_peer_the_unit_and_the_attempt(case: Case) -> None:
    job, peer = JobId(bytes.fromhex(case["job"])), PeerId(bytes.fromhex(case["peer"]))
    seed, unit, attempt = bytes.fromhex(case["seed"]), case["unit"], case["attempt"]
    network, output = NetworkId(bytes.fromhex(case["network"])), bytes.fromhex(case["output"])
    made = commitment.commitment(network, job, unit, attempt, peer, seed, output)
    assert made.hex() == case["commitment"]
    assert commitment.seed_hash(seed).hex() == case["seed_hash"]
    assert commitment.nonce(seed, job, unit, attempt).hex() == case["nonce"]


@pytest.mark.parametrize("case", cases("sortition"))
def test_who_may_take_a_unit_from_when_on_follows_from_its_ticket(case: Case) -> None:
    if "allowance" in case:
        assert sortition.allowance(case["committed"], case["lapsed"]) == case["allowance"]
        return
    salt, unit = bytes.fromhex(case["salt"]), case["unit"]
    terms = {name: case[name] for name in ("crowd", "wanted", "step_ms")}
    assert sortition.doublings(case["crowd"], case["wanted"]) == case["doublings"]
    for name, ticket, known_ms, newcomer_ms in case["peers"]:
        peer = PeerId(bytes.fromhex(name))
        assert str(sortition.ticket(salt, unit, peer)) == ticket
        after = sortition.eligible_after_ms
        assert after(salt, unit, peer, **terms, known=True) == known_ms
        assert after(salt, unit, peer, **terms, known=False) == newcomer_ms


def stop_of(case: Case) -> StopRule:
    kinds: dict[str, Any] = {"FixedQuorum": FixedQuorum, "Confidence": Confidence}
    fields = {name: value for name, value in case["stop"].items() if name != "is"}
    made: StopRule = kinds[case["stop"]["is"]](**fields)
    return made


@pytest.mark.parametrize("case", cases("decisions"))
def test_votes_are_enough_or_so_many_are_missing(case: Case) -> None:
    given = (stop_of(case), case["votes"], case["against"])
    assert certificate.holds(*given, case["snapshot"]) == case["holds"]
    assert certificate.missing(*given, case["checks"], case["snapshot"]) == case["more"]


@pytest.mark.parametrize("case", cases("rankings"))
def test_which_votes_count_together_and_which_result_leads(case: Case) -> None:
    def letter(value: bytes) -> str:
        return value[:1].decode()

    ballots = [
        certificate.Ballot(
            PeerId(peer.encode() * 32),
            Digest(digest.encode() * 32),
            checks,
            attempt,
            FrameHash(commit.encode() * 32),
            tuple(FrameHash(one.encode() * 32) for one in seen),
            VoteRef(FrameHash(bytes(32)), 0),
        )
        for peer, digest, checks, attempt, commit, seen in case["ballots"]
    ]
    found = certificate.ranking(ballots, stop_of(case), bytes(16), case["unit"])
    assert [
        [
            letter(each.digest),
            [letter(one.peer) for one in each.votes],
            [letter(one.peer) + letter(one.digest) for one in each.against],
        ]
        for each in found
    ] == case["ranking"]


@pytest.mark.parametrize("case", cases("certificates"))
def test_a_certificate_holds_if_its_frames_say_so(case: Case) -> None:
    manifest = opened_manifest(case)
    opened = [open_bytes(bytes.fromhex(one)) for one in case["frames"]]
    frames = {one.hash: one for one in opened if isinstance(one, VerifiedFrame)}
    assert sorted(one.hex() for one in frames) == case["hashes"]
    weighing = [open_bytes(bytes.fromhex(one)) for one in case["snapshots"]]
    snapshots = {one.hash: one for one in weighing if isinstance(one, VerifiedSnapshot)}
    assert sorted(one.hex() for one in snapshots) == case["snapshot_hashes"]
    for given in case["certificates"]:
        made = read("certificate", bytes.fromhex(given["encoding"]))
        output = bytes.fromhex(given["output"]) if "output" in given else None
        why = certificate.check_certificate(
            manifest.manifest, manifest.job, made, frames, snapshots, output
        )
        assert (why is None) == (given["verdict"] == "holds"), (given["about"], why)


@pytest.mark.parametrize("case", cases("snapshots"))
def test_a_trust_snapshot_is_judged_and_a_newer_one_weighs_votes(case: Case) -> None:
    manifest = opened_manifest(case)
    found = open_bytes(bytes.fromhex(case["snapshot"]))
    assert isinstance(found, VerifiedSnapshot)
    assert found.hash.hex() == case["hash"]
    terms = network_terms(parameters(case["network"]))
    verdict = admission.judge_snapshot(found.snapshot, terms)
    assert kind_of(verdict) == case["verdict"].split()[0]
    settlement = Settlement.create(manifest.job, manifest.manifest, NOW, judge=False)
    settlement.snapshot_number = case["known"]
    log, custody = FrameLog(manifest.job), Custody.create(PeerId(bytes(32)), bytes(32))
    job = Job(manifest.job, manifest, False, settlement, log, custody)
    assert job.weigh(found) == case["weighs"]


@pytest.mark.parametrize("case", cases("evidence"))
def test_two_frames_prove_a_fault_or_nothing(case: Case) -> None:
    opened = [open_bytes(bytes.fromhex(case[name])) for name in ("first", "second")]
    first, second = (one for one in opened if isinstance(one, VerifiedFrame))
    assert [first.hash.hex(), second.hash.hex()] == case["hashes"]
    assert bool(fault(first, second)) == bool(fault(second, first)) == bool(case["fault"])


@pytest.mark.parametrize("case", cases("reputation"))
def test_moves_make_a_record_a_score_and_whether_a_peer_is_served(case: Case) -> None:
    record = Record()
    for move, times in case["moves"]:
        for _ in range(times):
            record = reputation.moved(record, move)
    assert [record.agreed, record.contradicted, record.milli] == case["record"]
    assert record.checks == case["checks"]
    numerator, denominator = case["score"]
    assert reputation.score(record) == pytest.approx(numerator / denominator)
    assert reputation.served(record) == case["served"]


def test_a_rejected_frame_names_its_reason() -> None:
    case = next(one.values[0] for one in cases("jobs") if one.values[0]["verdict"] == "reject unit")
    frame = open_bytes(bytes.fromhex(case["sealed"]))
    assert isinstance(frame, VerifiedFrame)
    verdict = publisher_receives(opened_manifest(case), frame)
    assert isinstance(verdict, Reject)
    assert "unit" in verdict.reason
