"""What holds for every requirement of a network's owner, and every version."""

from __future__ import annotations

from core_samples import CAPABILITY, NETWORK, OWNER, requirement
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.rules.consent import version_at_least

VERSIONS = st.from_regex(r"^[0-9]{1,6}(\.[0-9]{1,6}){0,3}\Z")


@settings(max_examples=60)
@given(st.permutations(range(5)), st.lists(VERSIONS, min_size=5, max_size=5))
def test_whatever_the_order_in_which_they_come_the_newest_requirement_applies(
    order: list[int], versions: list[str]
) -> None:
    consent = Consent(CAPABILITY, owner=OWNER)
    for sequence in order:
        consent.take(requirement(versions[sequence], sequence), NETWORK)
    assert consent.requirement == requirement(versions[4], 4)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 99), min_size=4, max_size=4), VERSIONS, st.text(max_size=20))
def test_a_version_is_at_least_another_if_its_numbers_are(
    numbers: list[int], minimum: str, rest: str
) -> None:
    assume(rest[:1] not in set("0123456789"))
    wanted = [*map(int, minimum.split(".")), 0, 0, 0][:4]
    version = ".".join(map(str, numbers))
    assert version_at_least(version + rest, minimum) == (numbers >= wanted)
    assert version_at_least(minimum, minimum)
