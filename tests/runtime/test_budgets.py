"""What one publisher may announce, and how much one peer may talk."""

from __future__ import annotations

from p2pfleet.core.model.ids import PeerId, sha256
from p2pfleet.runtime.budgets import (
    HOUR_MS,
    MINUTE_MS,
    PUBLISHERS_MAX,
    PublishBudget,
    TalkBudget,
)


class SetClock:
    def __init__(self) -> None:
        self.ms = 0

    def monotonic_ms(self) -> int:
        return self.ms

    def wall_ms(self) -> int:
        return self.ms


def peer(number: int) -> PeerId:
    return PeerId(sha256(b"%d" % number))


def test_a_publisher_announces_so_many_different_things_an_hour() -> None:
    clock = SetClock()
    budget = PublishBudget(clock, most=3)
    assert [budget.allows(peer(0), number) for number in range(4)] == [True, True, True, False]
    assert budget.allows(peer(1), 3)
    # Announcing again what is open costs nothing.
    assert all(budget.allows(peer(0), number) for number in range(3))
    clock.ms = HOUR_MS
    assert budget.allows(peer(0), 3)


def test_within_a_minute_a_publisher_announces_fewer_and_repeats_as_it_likes() -> None:
    clock = SetClock()
    budget = PublishBudget(clock, most=100, a_minute=3)
    assert [budget.allows(peer(0), number) for number in range(5)] == [True] * 3 + [False] * 2
    assert all(budget.allows(peer(0), number) for number in range(3))
    clock.ms = MINUTE_MS - 1
    assert not budget.allows(peer(0), 3)
    clock.ms = MINUTE_MS
    assert [budget.allows(peer(0), number) for number in range(3, 8)] == [True] * 3 + [False] * 2


def test_the_budgets_of_publishers_are_bounded_in_number() -> None:
    budget = PublishBudget(SetClock(), most=1)
    for number in range(PUBLISHERS_MAX + 10):
        assert budget.allows(peer(number), b"first")
    assert len(budget._made) == PUBLISHERS_MAX


def test_a_peer_talks_at_a_rate_and_each_on_its_own() -> None:
    clock = SetClock()
    budget = TalkBudget(clock, a_second=10, at_once=5)
    assert [budget.allows(peer(0)) for _ in range(6)] == [True] * 5 + [False]
    assert budget.allows(peer(1))
    clock.ms = 250
    assert [budget.allows(peer(0)) for _ in range(3)] == [True, True, False]
    clock.ms = 10_000
    assert sum(budget.allows(peer(0)) for _ in range(20)) == 5
