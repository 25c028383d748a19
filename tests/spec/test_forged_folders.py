"""Results folders that prove nothing: each breaks one bound of a certificate, and is told.

A forger has every hash of ``report.json`` right and signs with keys of its own; what stops it is
that a certificate in a file is bound as one from the network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfleet.results import CERTIFICATES
from p2pfleet.verify import Verification, verify_results
from tests.spec.folders import ALICE, BOB, Folder, rewrite

Line = dict[str, Any]
ORDER = ("unit", "state", "digest", "snapshot", "votes", "against", "audit", "reason", "attempt")


class Forgery:
    """A folder that is right in everything but one line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        job = Folder()
        job.settle(0, (ALICE, BOB))
        job.write(folder)
        self.line: Line = json.loads((folder / CERTIFICATES).read_text())

    def checked(self, line: Line) -> Verification:
        ordered = {name: line[name] for name in sorted(line, key=ORDER.index)}
        content = json.dumps(ordered, separators=(",", ":")).encode() + b"\n"
        rewrite(self.folder, CERTIFICATES, content)
        return verify_results(self.folder)


@pytest.fixture
def forgery(tmp_path: Path) -> Forgery:
    return Forgery(tmp_path)


def test_a_folder_with_two_votes_holds(forgery: Forgery) -> None:
    found = forgery.checked(forgery.line)
    assert found.problems == ()
    assert (found.settled, found.voters, found.outputs, found.open) == (1, 2, 1, 5)


def test_no_vote_at_all_certifies_nothing(forgery: Forgery) -> None:
    found = forgery.checked(forgery.line | {"votes": []})
    assert found.voters == 0
    assert "unit 0: its certificate does not hold: 0 votes are not enough" in found.problems[0]


def test_an_index_below_zero_does_not_count_from_the_end(forgery: Forgery) -> None:
    votes = [[name, -1, 0] for name, _, _ in forgery.line["votes"]]
    found = forgery.checked(forgery.line | {"votes": votes})
    assert found.voters == 0
    assert any(problem.startswith("unit 0: ") for problem in found.problems)


NAME = "<the frame with the first vote>"
VOTE = [NAME, 0, 0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"votes": [VOTE]}, "1 votes are not enough"),
        ({"votes": [VOTE, VOTE]}, "somebody votes twice"),
        ({"votes": [VOTE] * 65}, "unit 0"),
        ({"against": [VOTE] * 65}, "unit 0"),
        ({"against": [VOTE]}, "somebody votes twice"),
        ({"votes": [[NAME, 1024, 0]]}, "unit 0"),
        ({"votes": [[NAME, 1, 0]]}, "is not there"),
        ({"votes": [[NAME, 0, 1]]}, "has no item 1"),
        ({"votes": [[NAME, 0, 256]]}, "unit 0"),
        ({"votes": [[NAME, 0, -1]]}, "unit 0"),
        ({"votes": [[NAME, 0]]}, "line 1"),
        ({"votes": [[NAME, 2**64, 0]]}, "unit 0"),
        ({"votes": [["ff" * 32, 0, 0]]}, "is missing"),
        ({"votes": [["FF" * 32, 0, 0]]}, "not the one way to write it"),
        ({"votes": [["ff" * 31, 0, 0]]}, "unit 0"),
        ({"votes": [[" " + "ff" * 32, 0, 0]]}, "not the one way to write it"),
        ({"digest": "FF" * 32}, "not the one way to write it"),
        ({"digest": "ff" * 31}, "unit 0"),
        ({"digest": "ff" * 32}, "a vote is for something else"),
        ({"digest": "none"}, "not hexadecimal"),
        ({"snapshot": "ff" * 32}, "is missing"),
        ({"snapshot": "ff" * 31}, "unit 0"),
        ({"snapshot": None}, "line 1"),
        ({"against": []}, "line 1"),
        ({"audit": VOTE}, "the publisher's word is none"),
        ({"audit": None}, "line 1"),
        ({"unit": -1}, "no such unit"),
        ({"unit": 6}, "no such unit"),
        ({"unit": 5}, "votes on another unit"),
        ({"state": "sworn"}, "no such state"),
        ({"attempt": 0}, "line 1"),
    ],
)
def test_a_line_outside_its_bounds_is_told(change: Line, told: str, forgery: Forgery) -> None:
    text = json.dumps(change).replace(NAME, forgery.line["votes"][0][0])
    found = forgery.checked(forgery.line | json.loads(text))
    assert found.voters == 0
    assert any(told in problem for problem in found.problems), found.problems


@pytest.mark.parametrize("field", ["digest", "votes"])
def test_a_settled_unit_without_a_whole_certificate_is_told(field: str, forgery: Forgery) -> None:
    found = forgery.checked({key: forgery.line[key] for key in forgery.line if key != field})
    assert any("settled without a certificate" in problem for problem in found.problems)
