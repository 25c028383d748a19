"""Credit is conserved, whatever is settled, claimed, found out, or cut short by a crash."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2pfleet.core import effects as ef
from p2pfleet.core.errors import Accept
from p2pfleet.core.machines.judge import Judge, Trial
from p2pfleet.core.machines.ledger import Answer, Dues
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.units import Endorsement, Place, Vote
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, Millis, PeerId, cid_of, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits
from p2pfleet.core.model.network import NetworkParameters, network_terms
from p2pfleet.core.rules import credit as rule
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedReceipt
from p2pfleet.sim.signatures import peer_of, seal, unseal

TERMS = network_terms(NetworkParameters("credit-properties", testnet=True))
PAULA = peer_of("paula")
PEERS = [peer_of(name) for name in "abcde"]
UNITS = 8
ANSWER = Digest(sha256(b"answer"))
NOBODY = FrameHash(bytes(32))
KINDS = ("matched", "confirmed", "audited", "ringer", "contradicted", "failed audit", "")


def manifest(work: int, lease_ms: int) -> ms.Manifest:
    cid = cid_of(b"blob")
    return ms.Manifest(
        TERMS.id, PAULA, "job", cid, 5, cid, 5, UNITS, 1000, Limits(2**20, 1000, 1000), Exact(),
        FixedQuorum(2, 4), 1, lease_ms, 0, 10**8, bytes(16), work=work,
    )  # fmt: skip


class Books:
    """One publisher's dues for a job; beside them, a naive sum of what ought to be earned."""

    def __init__(self, work: int, lease_ms: int) -> None:
        self.manifest = manifest(work, lease_ms)
        self.job = JobId(seal(self.manifest).hash)
        self.settlement = Settlement.create(self.job, self.manifest, Millis(0), judge=True)
        self.judge = Judge(PAULA, bytes(32))
        self.kinds: dict[PeerId, dict[int, str]] = {}
        self.dues = Dues(self.job, self.manifest)
        self.earnings: list[ef.Earning] = []
        self.receipts: dict[PeerId, VerifiedReceipt] = {}
        self.expected: dict[tuple[int, PeerId], int] = {}
        self.awaited: dict[int, dict[PeerId, int]] = {}

    def settle(self, number: int, votes: dict[PeerId, tuple[str, str, int | None]]) -> None:
        """``votes``: how a peer voted, what its move says, and how long it took."""
        unit = self.settlement.unit(number)
        if unit.final:
            return
        refs = []
        pays: dict[PeerId, int] = {}
        for at, (peer, (how, kind, took_ms)) in enumerate(votes.items()):
            own, other = ms.VoteRef(NOBODY, number, at), ms.VoteRef(NOBODY, 100 + number, at)
            unit.votes[peer] = [
                Vote(0, ANSWER, 9, own, NOBODY, (), bytes(32), bytes(32), Millis(0), Place(1, 0))
            ]
            if how == "vote":
                refs.append(own)
            elif how == "endorse":
                unit.endorsed[peer] = [Endorsement(0, ANSWER, own, other)]
                refs.append(other)
            elif how == "not committed":
                unit.opened[peer, 0] = False
            if kind:
                self.kinds.setdefault(peer, {})[number] = kind
            if took_ms is not None:
                answers = self.dues.answers.setdefault(number, {})
                answers[peer] = Answer(Millis(0), took_ms)
            counted = how in ("vote", "endorse") or kind in ("audited", "ringer")
            if counted and how != "not committed" and kind not in ("contradicted", "failed audit"):
                worth = max(1, self.manifest.work)
                pays[peer] = worth * rule.bonus_milli(self.manifest.lease_ms, took_ms) // 1000
        unit.certificate = ms.Certificate(self.job, number, ANSWER, None, tuple(refs))
        self.settlement._move(number, "certified")
        self.dues.note([ef.SaveUnits(self.job, (self.settlement.settle(number),))])
        self.awaited[number] = pays

    def credit(self, ending: bool = False) -> None:
        effects = self.dues.credit(self.settlement, self.judge, self.kinds, Millis(9), ending)
        for each in effects:
            assert isinstance(each, ef.SaveEarnings)
            self.earnings.extend(each.rows)
        for number in [n for n in self.awaited if ending or n not in self.judge.trials]:
            for peer, amount in self.awaited.pop(number).items():
                self.expected[number, peer] = amount

    def issue(self) -> None:
        for each in self.dues.issue(7):
            assert isinstance(each, ef.Sign)
            verified = unseal(seal(each.body))
            assert isinstance(verified, VerifiedReceipt)
            body = verified.receipt
            held = self.receipts.get(body.peer)
            verdict = rule.judge_receipt(
                body, body.peer, self.manifest, None if held is None else held.receipt, TERMS
            )
            assert isinstance(verdict, Accept), verdict
            self.receipts[body.peer] = verified

    def crash(self) -> None:
        """All that stays is what was written down; times are forgotten."""
        rows = [self.settlement.row(number) for number in sorted(self.settlement.units)]
        self.dues = Dues(self.job, self.manifest)
        self.dues.restore(rows, self.earnings, list(self.receipts.values()), Millis(0))
        self.judge.trials.clear()
        for pays in self.awaited.values():
            for peer in pays:
                pays[peer] = max(1, self.manifest.work)

    def balance(self) -> None:
        """Every receipt is the sum of what its votes earned, and nothing else was signed for."""
        earned = {(row.unit, row.peer): row.credit for row in self.earnings}
        assert len(earned) == len(self.earnings), "something earned twice"
        assert earned == self.expected
        signed = {peer: each.receipt for peer, each in self.receipts.items()}
        for peer in PEERS:
            amounts = [credit for (_, other), credit in earned.items() if other == peer]
            if not amounts:
                assert peer not in signed
                continue
            said = signed[peer]
            assert (said.units, said.credit) == (len(amounts), sum(amounts))
            assert said.work == len(amounts) * max(1, self.manifest.work)
        assert sum(each.credit for each in signed.values()) == sum(earned.values())


VOTE = st.tuples(
    st.sampled_from(["vote", "vote", "endorse", "late", "not committed"]),
    st.sampled_from(KINDS),
    st.one_of(st.none(), st.integers(0, 200_000)),
)
SETTLE = st.tuples(
    st.just("settle"),
    st.integers(0, UNITS - 1),
    st.dictionaries(st.sampled_from(PEERS), VOTE, max_size=5),
)
STEP = st.one_of(
    SETTLE,
    SETTLE,
    st.tuples(st.just("doubt"), st.integers(0, UNITS - 1)),
    st.tuples(st.sampled_from(["credit", "issue", "crash", "sure"])),
)


@given(
    st.one_of(st.integers(0, 5), st.integers(0, 2**50)),
    st.integers(1_000, 24 * 3600 * 1000),
    st.lists(STEP, max_size=30),
)
def test_the_sum_over_receipts_is_the_sum_of_what_the_votes_of_settled_units_earned(
    work: int, lease_ms: int, steps: list[Any]
) -> None:
    books = Books(work, lease_ms)
    for step in steps:
        match step:
            case ("settle", number, votes):
                books.settle(number, votes)
            case ("doubt", number):
                books.judge.trials[number] = Trial(ANSWER, "contradicted")
            case ("sure",):
                books.judge.trials.clear()
            case ("credit",):
                books.credit()
            case ("issue",):
                books.issue()
            case ("crash",):
                books.crash()
    books.credit(ending=True)
    books.issue()
    books.balance()


@given(st.integers(1_000, 24 * 3600 * 1000), st.integers(0, 2**53))
def test_the_bonus_is_the_largest_whole_number_that_the_formula_allows(
    lease_ms: int, elapsed_ms: int
) -> None:
    milli = rule.bonus_milli(lease_ms, elapsed_ms)
    scale = 4 * max(1, elapsed_ms)
    square = 3 * lease_ms * 10**6
    assert 1_000 <= milli <= 2_000
    if milli < 2_000:
        assert (milli + 1) ** 2 * scale > square
    if milli > 1_000:
        assert milli**2 * scale <= square


@given(
    st.integers(0, 2**53 - 1),
    st.integers(1, 10**6),
    st.integers(1_000, 24 * 3600 * 1000),
    st.one_of(st.none(), st.integers(0, 2**53)),
)
def test_what_a_whole_job_earns_one_peer_fits_a_receipt_that_holds(
    work: int, units: int, lease_ms: int, elapsed_ms: int | None
) -> None:
    worth, credit = rule.base(work, units), rule.earned(work, units, lease_ms, elapsed_ms)
    assert worth <= credit <= 2 * worth
    body = ms.Receipt(
        TERMS.id, JobId(bytes(32)), PAULA, PEERS[0], 0, units, units * worth, units * credit, 0
    )
    verified = unseal(seal(body))
    assert isinstance(verified, VerifiedReceipt)
    assert verified.receipt == body
