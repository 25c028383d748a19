"""The vectors of closed networks, against p2pfleet's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfleet.adapters.network.guard.swarm_key import key_stream
from p2pfleet.core.errors import Accept, Ignore, Verdict
from p2pfleet.core.machines.roster import Roster
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.network import NetworkParameters, network_terms
from p2pfleet.core.model.swarm_key import parse_swarm_key, swarm_key_text
from p2pfleet.core.rules import closed
from p2pfleet.core.wire.verified import VerifiedAcceptance, VerifiedAdmission, VerifiedMembers
from p2pfleet.runtime.signing import open_bytes

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
Case = dict[str, Any]


def cases(name: str, *judged: str) -> list[Any]:
    document = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    found = [case for case in document["cases"] if not judged or case["judged"] in judged]
    assert found
    return [pytest.param(case, id=case["about"][:60]) for case in found]


def parameters(case: Case) -> NetworkParameters:
    given = case["network"]
    owner = None if given["owner"] is None else PeerId(bytes.fromhex(given["owner"]))
    return NetworkParameters(**{**given, "owner": owner})


def kind_of(verdict: Verdict) -> str:
    if isinstance(verdict, Accept):
        return "accept"
    return "ignore" if isinstance(verdict, Ignore) else "reject"


@pytest.mark.parametrize("case", cases("closed", "page"))
def test_a_page_of_members_is_judged(case: Case) -> None:
    opened = open_bytes(bytes.fromhex(case["body"]))
    assert isinstance(opened, VerifiedMembers)
    assert opened.sealed.hash.hex() == case["hash"]
    verdict = closed.judge_members(opened.members, network_terms(parameters(case)), case["known"])
    assert kind_of(verdict) == case["verdict"].split()[0]


@pytest.mark.parametrize("case", cases("closed", "admission"))
def test_what_an_invited_peer_shows_is_judged(case: Case) -> None:
    opened = open_bytes(bytes.fromhex(case["body"]))
    assert isinstance(opened, VerifiedAdmission)
    assert opened.sealed.hash.hex() == case["hash"]
    verdict = closed.judge_admission(opened, network_terms(parameters(case)), case["wall_ms"])
    assert kind_of(verdict) == case["verdict"].split()[0]


@pytest.mark.parametrize("case", cases("closed", "acceptance"))
def test_a_members_word_on_an_invited_peer_is_judged(case: Case) -> None:
    opened = open_bytes(bytes.fromhex(case["body"]))
    assert isinstance(opened, VerifiedAcceptance)
    assert opened.sealed.hash.hex() == case["hash"]
    verdict = closed.judge_acceptance(opened, network_terms(parameters(case)), case["wall_ms"])
    assert kind_of(verdict) == case["verdict"].split()[0]


@pytest.mark.parametrize("case", cases("closed", "roster"))
def test_who_belongs_follows_from_the_pages_and_acceptances(case: Case) -> None:
    roster = Roster(network_terms(parameters(case)))
    for data in case["pages"]:
        page = open_bytes(bytes.fromhex(data))
        assert isinstance(page, VerifiedMembers)
        assert isinstance(roster.take_page(page), Accept)
    words = [open_bytes(bytes.fromhex(one)) for one in case["acceptances"]]
    heard = [one for one in words if isinstance(one, VerifiedAcceptance)]
    assert len(heard) == len(words)
    for _ in heard:  # pulling brings what came too early again, until nothing changes any more
        for one in heard:
            roster.take_acceptance(one, 2**52)
    assert roster.terms.owner is not None
    known = {roster.terms.owner, *roster.entries, *(one.peer for one in heard)}
    assert sorted(key.hex() for key in known if roster.member(key)) == case["members"]
    witnesses = sorted(one.acceptance.member.hex() for one in roster.named.values())
    assert witnesses == case["witnesses"]


@pytest.mark.parametrize("case", cases("closed", "summary", "place"))
def test_what_a_summary_tells(case: Case) -> None:
    if case["judged"] == "place":
        assert closed.page_of(PeerId(bytes([case["first"]] * 32))) == case["page"]
        return
    hashes = [bytes.fromhex(one) for one in case["hashes"]]
    assert closed.acceptances_hash(hashes).hex() == case["hash"]


@pytest.mark.parametrize("case", cases("swarm_keys"))
def test_a_swarm_key_encrypts_what_is_written(case: Case) -> None:
    key = bytes.fromhex(case["key"])
    assert parse_swarm_key(case["file"]) == key
    assert swarm_key_text(key) == case["file"]
    encrypt = key_stream(key, bytes.fromhex(case["nonce"]))
    assert [encrypt(bytes.fromhex(one)).hex() for one in case["writes"]] == case["sent"]
