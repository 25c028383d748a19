"""Results folders that prove nothing: each breaks one bound of a certificate, and is told.

A forger has every hash of ``report.json`` right and signs with keys of its own; what stops it is
that a certificate in a file is bound as one from the network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfleet.adapters.inputs import outputs_path, write_outputs
from p2pfleet.core.model.ids import Digest, cid_of, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits
from p2pfleet.core.model.network import NetworkParameters, network_id
from p2pfleet.core.wire.messages import Frame, Manifest, Reveal, Sealed, job_id
from p2pfleet.core.wire.tensors import Tensor, digest_of, encode_bundle
from p2pfleet.results import (
    CERTIFICATES,
    FRAMES,
    MANIFEST,
    REPORT,
    FrameLine,
    SealedText,
)
from p2pfleet.runtime.signing import Signer
from p2pfleet.verify import Verification, verify_results

PUBLISHER, ALICE, BOB = (Signer(sha256(name.encode())) for name in ("publisher", "alice", "bob"))
NETWORK = network_id(NetworkParameters("forgery", True))
OUTPUT = encode_bundle((Tensor("answer", "uint8", (2,), b"no"),))
DIGEST: Digest = digest_of(OUTPUT)
SEALED_MANIFEST = PUBLISHER.seal(
    Manifest(
        network=NETWORK,
        publisher=PUBLISHER.peer,
        name="forged",
        model=cid_of(b"model"),
        model_bytes=5,
        table=cid_of(b"table"),
        table_bytes=5,
        units=2,
        total_bytes=2,
        limits=Limits(2**20, 1000, 1000),
        comparison=Exact(),
        stop=FixedQuorum(2, 5),
        shards=1,
        lease_ms=1000,
        issued_ms=1,
        expires_ms=2,
        salt=bytes(16),
    )
)

Line = dict[str, Any]


def vote(author: Signer) -> Sealed:
    reveal = Reveal(0, 0, DIGEST, len(OUTPUT))
    return author.seal(Frame(NETWORK, job_id(SEALED_MANIFEST), author.peer, 1, 0, (reveal,)))


VOTES = (vote(ALICE), vote(BOB))


def honest() -> Line:
    """The line of a unit that two volunteers settled."""
    return {
        "unit": 0,
        "state": "settled",
        "attempt": 0,
        "digest": DIGEST.hex(),
        "votes": [[one.hash.hex(), 0] for one in VOTES],
    }


def checked(folder: Path, line: Line) -> Verification:
    """What is found in a folder that is right in everything but this line."""
    frames = [FrameLine(one.hash.hex(), SealedText.of(one)) for one in VOTES]
    texts = {
        MANIFEST: msgspec.json.encode(SealedText.of(SEALED_MANIFEST)) + b"\n",
        FRAMES: b"".join(msgspec.json.encode(frame) + b"\n" for frame in frames),
        CERTIFICATES: msgspec.json.encode(line) + b"\n",
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    write_outputs(folder, 0, OUTPUT)
    hashes = {name: sha256(text).hex() for name, text in texts.items()}
    (folder / REPORT).write_text(json.dumps({"files": hashes}))
    return verify_results(folder)


def test_a_folder_with_two_votes_holds(tmp_path: Path) -> None:
    found = checked(tmp_path, honest())
    assert found.problems == ()
    assert (found.settled, found.voters, found.outputs, found.open) == (1, 2, 1, 1)


def test_an_attempt_below_zero_makes_no_quorum_of_nobody(tmp_path: Path) -> None:
    """Two votes of quorum and an attempt of -2 would be fulfilled by no vote at all."""
    found = checked(tmp_path, honest() | {"attempt": -2, "votes": []})
    assert found.voters == 0
    assert any(problem.startswith(f"{CERTIFICATES} line 1: ") for problem in found.problems)
    assert f"{outputs_path(tmp_path, 0).name}: an output without a certificate" in found.problems


def test_an_index_below_zero_does_not_count_from_the_end(tmp_path: Path) -> None:
    votes = [[one.hash.hex(), -1] for one in VOTES]
    found = checked(tmp_path, honest() | {"votes": votes})
    assert found.voters == 0
    assert any(problem.startswith(f"{CERTIFICATES} line 1: ") for problem in found.problems)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"votes": []}, "line 1"),
        ({"attempt": -1, "votes": [[VOTES[0].hash.hex(), 0]]}, "line 1"),
        ({"attempt": 256}, "line 1"),
        ({"attempt": 1}, "2 voters where 3 are needed"),
        ({"attempt": 2**64 - 1}, "line 1"),
        ({"votes": [[VOTES[0].hash.hex(), 0]] * 2}, "1 voters where 2 are needed"),
        ({"votes": [[VOTES[0].hash.hex(), 0]] * 65}, "line 1"),
        ({"votes": [[VOTES[0].hash.hex(), 1024]]}, "line 1"),
        ({"votes": [[VOTES[0].hash.hex(), 1]]}, "has no entry 1"),
        ({"votes": [[VOTES[0].hash.hex().upper(), 0]]}, "not the one way to write it"),
        ({"votes": [[VOTES[0].hash.hex()[:-2], 0]]}, "line 1"),
        ({"votes": [[f" {VOTES[0].hash.hex()}", 0]]}, "not the one way to write it"),
        ({"digest": DIGEST.hex().upper()}, "not the one way to write it"),
        ({"digest": DIGEST.hex()[:-2]}, "line 1"),
        ({"digest": "none"}, "not hexadecimal"),
        ({"attempt": None}, "not the one way to write it"),
        ({"unit": -1}, "no such unit"),
        ({"unit": 2}, "no such unit"),
        ({"state": "sworn"}, "no such state"),
    ],
)
def test_a_line_outside_its_bounds_is_told(change: Line, told: str, tmp_path: Path) -> None:
    found = checked(tmp_path, honest() | change)
    assert found.voters == 0
    assert any(told in problem for problem in found.problems), found.problems


@pytest.mark.parametrize("field", ["attempt", "digest", "votes"])
def test_a_settled_unit_without_a_whole_certificate_is_told(field: str, tmp_path: Path) -> None:
    found = checked(tmp_path, {key: value for key, value in honest().items() if key != field})
    assert any("settled without a certificate" in problem for problem in found.problems)
