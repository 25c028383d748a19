"""What sides of a cut certified apart from each other, by the ledgers of their nodes."""

from __future__ import annotations

from collections.abc import Mapping

from p2pfleet.cli.testnet_apart import Apart, Line
from p2pfleet.core.model.ids import JobId, NetworkId, PeerId
from p2pfleet.core.wire.messages import Endorse, Frame, Reveal, RevealItem, VoteRef

PEERS = {number: PeerId(bytes([number]) * 32) for number in range(5)}
SIDES = {"left": [0, 1], "right": [2, 3]}
YES, NO = b"\1" * 32, b"\2" * 32


def by(*numbers: int) -> frozenset[bytes]:
    """The hashes of one frame of each of these nodes."""
    return frozenset(bytes([number]) for number in numbers)


class FakeBooks:
    """Ledgers as given; frame ``bytes([n])`` is node n's."""

    def __init__(self, **ledgers: dict[int, Line]) -> None:
        self.ledgers = ledgers

    def ledger(self, number: int) -> Mapping[int, Line]:
        return self.ledgers.get(f"node{number}", {})

    def authors(self, number: int) -> Mapping[bytes, PeerId]:
        return {bytes([number]): peer for number, peer in PEERS.items()}


def certified(digest: bytes, *voters: int) -> Line:
    return Line("certified", digest, by(*voters))


def apart(books: FakeBooks, units: int = 1, rivals: int = 0) -> Apart:
    return Apart(10.0, SIDES, units, rivals, PEERS, books)


def revealed(author: int, unit: int, digest: bytes) -> Frame:
    entry = Reveal(bytes(32), 0, bytes(32), (RevealItem(unit, 0, digest, 8),), ())
    return Frame(NetworkId(bytes(32)), JobId(bytes(32)), PEERS[author], 1, 0, (entry,))


def test_what_both_sides_certified_alike_has_to_settle_with_votes_of_both() -> None:
    line = certified(YES, 0, 1)
    books = FakeBooks(node0={0: line, 1: line, 2: line}, node3={0: certified(YES, 2, 3)})
    endorsed = Endorse(0, 0, VoteRef(bytes(32), 0), YES)
    frames = [
        revealed(0, 0, YES),
        Frame(NetworkId(bytes(32)), JobId(bytes(32)), PEERS[2], 1, 0, (endorsed,)),
    ]
    first, merged = apart(books).judge({0: Line("settled", YES)}, frames)
    assert first.held
    assert first.seen == "1 of 3 and 1; 0 of them with different answers"
    assert merged.held
    for ledger, heard in (({}, frames), ({0: Line("settled", NO)}, frames),
                          ({0: Line("settled", YES)}, frames[:1])):  # fmt: skip
        _, merged = apart(books).judge(ledger, heard)
        assert not merged.held
    first, _ = apart(books, units=2).judge({0: Line("settled", YES)}, frames)
    assert not first.held


def test_a_vote_from_the_other_side_shows_that_nobody_was_apart() -> None:
    books = FakeBooks(node0={0: certified(YES, 0, 2)}, node2={0: certified(YES, 2, 3)})
    (first,) = apart(books).judge({0: Line("settled", YES)}, [])
    assert not first.held
    assert first.seen.startswith("0 of 0 and 1")


def test_rivals_have_to_be_contested_before_one_of_them_settles() -> None:
    books = FakeBooks(node1={7: certified(YES, 0, 1)}, node2={7: certified(NO, 2, 3)})
    found = apart(books, rivals=1)
    settled = {7: Line("settled", YES)}
    first, rival = found.judge(settled, [])
    assert first.held
    assert not rival.held, "nobody was seen to reopen it"
    books.ledgers["node2"] = {7: Line("contested")}
    found.look(10.5)
    found.look(11.5)
    contested = "1 were seen contested, 0 with one answer everywhere, 1 settled, of 1"
    assert found.judge(settled, [])[1].seen == contested
    for number in range(4):
        books.ledgers[f"node{number}"] = {7: certified(YES, 0, 1)}
    found.look(12.0)
    assert found.judge(settled, [])[1].seen == contested, "too early for another look"
    found.look(12.5)
    _, rival = found.judge(settled, [])
    assert rival.held
    assert rival.seen == "1 were seen contested, 1 with one answer everywhere, 1 settled, of 1"
    assert not found.judge({7: Line("contested")}, [])[1].held
    assert not found.judge({7: Line("settled", bytes(32))}, [])[1].held
