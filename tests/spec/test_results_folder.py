"""The results folder: what is written holds when it is verified, and says what it rests on."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from p2pfleet.adapters.inputs import outputs_path
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.job import Confidence, FixedQuorum
from p2pfleet.core.model.network import NetworkParameters, network_terms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.wire.messages import Claim, Ringer
from p2pfleet.core.wire.tensors import digest_of
from p2pfleet.reading_results import read_trust
from p2pfleet.results import (
    FRAMES,
    HASHED,
    MANIFEST,
    REPORT,
    SNAPSHOTS,
    SealedText,
)
from p2pfleet.verify import rule_in_words, verify_results
from tests.spec.folders import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    CLOSE,
    DAVE,
    GOOD,
    MALLORY,
    PUBLISHER,
    SIGNERS,
    Folder,
    rewrite,
    sealed_snapshot,
    verified_snapshot,
)

SURE = Confidence(error_ppb=1_000_000, faulty_ppm=200_000, replicas_max=16)
KNOWN = {ALICE: 300, BOB: 300}


def lines_of(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


# ---- what is written -------------------------------------------------------------------------


def test_a_folder_holds_and_its_report_names_every_file(tmp_path: Path) -> None:
    job = Folder()
    job.settle(0)
    job.settle(3, (BOB, CAROL, DAVE))
    job.rows[1] = ("failed", b"memory: too much")
    found = job.verified(tmp_path)
    assert found.problems == ()
    assert (found.settled, found.certified, found.failed, found.open) == (2, 2, 1, 3)
    assert (found.outputs, found.voters) == (2, 4)
    assert set(json.loads((tmp_path / REPORT).read_text())["files"]) == set(HASHED)


def test_every_frame_that_certificates_rest_on_is_there_once_and_no_other(tmp_path: Path) -> None:
    job = Folder()
    job.settle(0)
    stray = job.booth.write(MALLORY, Claim((1,)))
    job.certify(1, job.booth.vote([ALICE, BOB], 1, GOOD), job.booth.vote([CAROL], 1, BAD))
    job.write(tmp_path)
    frames = lines_of(tmp_path, FRAMES)
    assert len(frames) == len(set(frames)) == 4 + 4 + 2, "a commitment and a reveal for each vote"
    assert stray.hash.hex() not in "".join(frames)


def test_an_endorsement_brings_the_result_that_it_was_compared_with(tmp_path: Path) -> None:
    job = Folder(comparison=Tolerance())
    (first,) = job.booth.vote([ALICE], 0, GOOD)
    (own,) = job.booth.vote([BOB], 0, CLOSE, attempt=1)
    job.certify(0, (first, job.booth.endorse(BOB, 0, own, digest_of(GOOD))))
    found = job.verified(tmp_path)
    assert found.problems == ()
    assert found.endorsed == 1
    assert len(lines_of(tmp_path, FRAMES)) == 5


def test_the_trust_snapshots_that_certificates_name_are_there_once(tmp_path: Path) -> None:
    job = Folder(SURE, KNOWN)
    job.trusting({CAROL: 9}, number=2)
    job.settle(0)
    job.settle(1)
    found = job.verified(tmp_path)
    assert found.problems == ()
    assert len(lines_of(tmp_path, SNAPSHOTS)) == 1
    (used,) = found.snapshots
    assert (used.signer, used.number, used.peers, used.units) == (PUBLISHER, 1, 2, 2)
    assert (found.weighs, found.newcomers) == (True, 0)


def test_a_folder_may_be_written_again_as_the_job_goes_on(tmp_path: Path) -> None:
    job = Folder()
    job.settle(0)
    assert job.verified(tmp_path).settled == 1
    job.settle(1)
    assert job.verified(tmp_path).settled == 2


def test_a_certified_unit_needs_no_output_and_a_contested_one_proves_nothing(
    tmp_path: Path,
) -> None:
    job = Folder()
    job.settle(0, state="certified")
    job.settle(1, state="contested")
    found = job.verified(tmp_path)
    assert found.problems == ()
    assert (found.certified, found.settled, found.outputs, found.open) == (1, 0, 0, 5)


# ---- what it rests on ------------------------------------------------------------------------


def test_what_rests_on_the_publishers_word_on_one_vote_or_on_newcomers_is_counted(
    tmp_path: Path,
) -> None:
    job = Folder(Confidence(200_000_000, 100_000, 8))
    job.settle(0, [ALICE])
    job.settle(1, [ALICE, BOB])
    job.certify(2, (), (), job.word(2))
    found = job.verified(tmp_path)
    assert found.problems == ()
    assert (found.audited, found.single, found.newcomers) == (1, 1, 2)
    assert found.snapshots == ()


def test_the_ringers_are_held_against_the_certificates(tmp_path: Path) -> None:
    job = Folder(ringers=(Ringer(0, digest_of(GOOD)), Ringer(5, digest_of(BAD))))
    job.settle(0)
    assert job.verified(tmp_path / "open").ringers == 0
    job.open_ringers()
    found = job.verified(tmp_path / "opened")
    assert (found.ringers, found.problems) == (2, ())
    job.settle(5)
    found = job.verified(tmp_path / "wrong")
    assert found.problems == ("unit 5: a ringer, and its certificate is for another answer",)
    assert Folder().verified(tmp_path / "none").ringers is None


def test_within_a_tolerance_another_answer_may_stand_for_a_ringer_by_the_publishers_word(
    tmp_path: Path,
) -> None:
    job = Folder(comparison=Tolerance(), ringers=(Ringer(0, digest_of(CLOSE)),))
    job.open_ringers()
    job.settle(0)
    assert "a ringer" in job.verified(tmp_path / "silent").problems[0]
    job.certify(0, (), (), job.word(0))
    assert job.verified(tmp_path / "said").problems == ()


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (FixedQuorum(1, 1), "1 volunteer with one answer, equal byte for byte"),
        (FixedQuorum(3, 9), "3 volunteers with one answer, equal byte for byte"),
        (SURE, "99.9 % sure of an answer, if 20 % of the volunteers are faulty; answers equal"),
        (Confidence(1, 1, 1), "99.9999999 % sure of an answer, if 0.0001 %"),
    ],
)
def test_the_stop_rule_is_told_in_words(stop: FixedQuorum | Confidence, words: str) -> None:
    assert rule_in_words(Folder(stop).manifest).startswith(words)
    soft = rule_in_words(Folder(stop, comparison=Tolerance()).manifest)
    assert soft.endswith("within the job's tolerance of one of them")


# ---- a snapshot of one's own choice ----------------------------------------------------------


def test_votes_are_weighed_by_a_snapshot_of_ones_own_as_well(tmp_path: Path) -> None:
    job = Folder(SURE, KNOWN)
    job.settle(0)
    mine = verified_snapshot(KNOWN, signer="mallory")
    found = job.verified(tmp_path, mine)
    assert (found.problems, found.weighed_by) == ((), MALLORY)
    less = job.verified(tmp_path, verified_snapshot({ALICE: 20}, signer="mallory"))
    assert "does not hold by your trust snapshot" in less.problems[0]


def test_a_snapshot_of_another_network_weighs_nothing(tmp_path: Path) -> None:
    job = Folder()
    job.write(tmp_path)
    with pytest.raises(P2pfleetError, match="another network") as caught:
        verify_results(tmp_path, verified_snapshot({}, network=bytes(32)))
    assert caught.value.code is ExitCode.USAGE


def test_a_snapshot_is_read_from_a_line_of_a_results_folder_or_by_itself(tmp_path: Path) -> None:
    job = Folder(SURE, KNOWN)
    job.settle(0)
    job.write(tmp_path)
    alone = tmp_path / "trust.json"
    alone.write_bytes(msgspec.json.encode(SealedText.of(sealed_snapshot(KNOWN))) + b"\n")
    assert read_trust(alone) == read_trust(tmp_path / SNAPSHOTS)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff" * 300_000, b'{"body":"","signer":"","signature":""}', b"[" * 9_999],
)
def test_what_is_no_snapshot_is_refused_with_a_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    file.write_bytes(content)
    with pytest.raises(P2pfleetError) as caught:
        read_trust(file)
    assert caught.value.code is ExitCode.USAGE
    with pytest.raises(P2pfleetError):
        read_trust(tmp_path / "missing")


def test_a_manifest_is_no_snapshot(tmp_path: Path) -> None:
    Folder().write(tmp_path)
    with pytest.raises(P2pfleetError, match="no signed trust snapshot"):
        read_trust(tmp_path / MANIFEST)


# ---- the network and its puzzle --------------------------------------------------------------


def puzzling(*fitting: PeerId) -> NetworkParameters:
    """A network that asks for a bit of work, which these keys show and Mallory's does not."""
    for number in range(10_000):
        found = NetworkParameters(f"puzzle-{number}", True, None, 2)
        terms = network_terms(found)
        if all(fits(terms, one) for one in fitting) and not fits(terms, MALLORY):
            return found
    raise AssertionError


def test_the_keys_of_all_who_wrote_have_to_fit_the_network(tmp_path: Path) -> None:
    parameters = puzzling(PUBLISHER, ALICE, BOB)
    job = Folder(parameters=parameters)
    job.settle(0)
    assert job.verified(tmp_path).problems == ()
    job.settle(1, [ALICE, MALLORY])
    found = job.verified(tmp_path)
    assert any("key does not fit the network" in problem for problem in found.problems)
    assert any(problem.startswith("unit 1: ") for problem in found.problems)


def test_the_publishers_key_has_to_fit_too(tmp_path: Path) -> None:
    for number in range(1_000):
        parameters = NetworkParameters(f"puzzle-{number}", True, None, 2)
        if not fits(network_terms(parameters), PUBLISHER):
            break
    found = Folder(parameters=parameters).verified(tmp_path)
    assert "the publisher's key does not fit the network" in found.problems


@pytest.mark.parametrize(
    "network",
    [
        None,
        {},
        {"name": "forgery", "testnet": False, "owner": None, "puzzle_bits": 0, "votes_a_subnet": 0},
        {"name": "forgery", "testnet": True, "owner": "me", "puzzle_bits": 0, "votes_a_subnet": 0},
        {"name": "forgery", "testnet": True, "owner": None, "puzzle_bits": 41, "votes_a_subnet": 0},
        {"name": "", "testnet": True, "owner": None, "puzzle_bits": 0, "votes_a_subnet": 0},
        {"name": "forgery", "testnet": True, "owner": None, "puzzle_bits": 2**70},
    ],
)
def test_a_report_with_other_parameters_than_the_networks_is_told(
    network: object, tmp_path: Path
) -> None:
    job = Folder()
    job.settle(0)
    job.write(tmp_path)
    report = json.loads((tmp_path / REPORT).read_text())
    report["network"] = network
    (tmp_path / REPORT).write_text(json.dumps(report))
    (problem,) = verify_results(tmp_path).problems
    assert "network" in problem


# ---- damage and forgery ----------------------------------------------------------------------


def test_a_file_that_was_changed_after_the_report_is_told(tmp_path: Path) -> None:
    job = Folder(SURE, KNOWN)
    job.settle(0)
    for name in HASHED:
        job.write(tmp_path)
        path = tmp_path / name
        path.write_bytes(path.read_bytes() * 2)
        if name == MANIFEST:
            with pytest.raises(P2pfleetError):
                verify_results(tmp_path)
            continue
        problems = verify_results(tmp_path).problems
        assert f"{name} is not the file that {REPORT} was written for" in problems
        assert any("twice" in problem for problem in problems)
        path.unlink()
        assert f"{name} is missing" in verify_results(tmp_path).problems


def test_an_output_that_is_not_the_certified_one_is_told(tmp_path: Path) -> None:
    job = Folder()
    job.settle(0)
    job.settle(1, bundle=BAD)
    job.write(tmp_path)
    outputs_path(tmp_path, 1).replace(outputs_path(tmp_path, 0))
    problems = verify_results(tmp_path).problems
    assert "000000.npz: not the output that unit 0's votes are for" in problems
    assert any("000001.npz" in problem for problem in problems)


def test_an_output_of_a_unit_that_is_not_settled_is_told(tmp_path: Path) -> None:
    job = Folder()
    job.settle(0)
    job.write(tmp_path)
    outputs_path(tmp_path, 4).write_bytes(outputs_path(tmp_path, 0).read_bytes())
    assert verify_results(tmp_path).problems == ("000004.npz: an output without a certificate",)


def test_a_voter_that_had_committed_to_other_bytes_is_found_by_the_output(tmp_path: Path) -> None:
    job = Folder()
    commits = [job.booth.commit(ALICE, 0, GOOD), job.booth.commit(MALLORY, 0, b"guessed")]
    votes = [job.booth.reveal(each, digest_of(GOOD), commits) for each in commits]
    job.certify(0, votes)
    assert "committed to without its bytes" in job.verified(tmp_path).problems[0]


@pytest.mark.parametrize("name", [FRAMES, SNAPSHOTS])
def test_a_line_whose_signature_or_name_is_wrong_is_told(name: str, tmp_path: Path) -> None:
    job = Folder(SURE, KNOWN)
    job.settle(0)
    job.write(tmp_path)
    line = json.loads(lines_of(tmp_path, name)[0])
    body = "frame" if name == FRAMES else "snapshot"
    other = msgspec.to_builtins(SealedText.of(sealed_snapshot({}, signer="mallory")))
    for changed, told in (
        (line | {"hash": "00" * 32}, "that it says"),
        (line | {body: {**line[body], "signer": other["signer"]}}, "signature"),
        (line | {body: {**line[body], "signature": "!"}}, "base64"),
    ):
        rewrite(tmp_path, name, json.dumps(changed, separators=(",", ":")).encode() + b"\n")
        problems = verify_results(tmp_path).problems
        assert any(problem.startswith(f"{name} line 1") for problem in problems), problems
        assert any(told in problem for problem in problems), problems
    assert SIGNERS["mallory"].peer == MALLORY


def test_a_frame_that_no_node_would_take_is_told(tmp_path: Path) -> None:
    job = Folder()
    votes = job.booth.vote([ALICE, BOB], 0, GOOD)
    too_long = job.booth.commit(CAROL, 0, GOOD, attempt=1)
    job.certify(0, [*votes, job.booth.reveal(too_long, digest_of(GOOD), [too_long], 1_001)])
    problems = job.verified(tmp_path).problems
    assert any("larger than the job allows" in problem for problem in problems)


def test_somebody_elses_snapshot_does_not_weigh_the_publishers_job(tmp_path: Path) -> None:
    job = Folder(SURE, KNOWN)
    job.saved = [sealed_snapshot(KNOWN, signer="mallory")]
    job.snapshot = digest_of(job.saved[0].body)
    job.settle(0)
    assert "somebody else's" in job.verified(tmp_path).problems[0]
