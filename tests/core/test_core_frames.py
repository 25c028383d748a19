"""Which frames of a job are here, and what is missing elsewhere."""

from __future__ import annotations

import msgspec
from core_samples import ALICE, BAD, BOB, CAROL, DAVE, GOOD, MALLORY, SAMPLE, frame, vote

from p2pfleet.core.effects import SendFrames
from p2pfleet.core.machines.frames import AHEAD_MAX, REPLY_FRAMES_MAX, FrameLog
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire.messages import AuthorPosition, Claim


def admit(log: FrameLog, sequence: int, author: PeerId = ALICE, incarnation: int = 1) -> str | None:
    item = frame(author, vote(0, GOOD), sequence=sequence, incarnation=incarnation)
    return log.admit(item, 10)


def test_frames_with_a_gap_are_here_but_the_position_waits_for_the_gap() -> None:
    log = FrameLog(SAMPLE.job)
    assert admit(log, 0) is None
    assert admit(log, 2) is None
    assert admit(log, 3) is None
    assert log.positions() == (AuthorPosition(ALICE, 1, 1),)
    assert admit(log, 1) is None
    assert log.positions() == (AuthorPosition(ALICE, 1, 4),)
    assert log.ahead == {}


def test_a_frame_is_taken_once_whether_in_order_or_ahead() -> None:
    log = FrameLog(SAMPLE.job)
    for sequence in (0, 5):
        assert admit(log, sequence) is None
        assert admit(log, sequence) == "a frame of this number is here already"


def test_a_frame_too_far_ahead_is_not_taken() -> None:
    log = FrameLog(SAMPLE.job)
    assert admit(log, AHEAD_MAX + 1) == "too far ahead of what is here"
    assert admit(log, AHEAD_MAX) is None
    assert admit(log, 2**53 - 1) == "too far ahead of what is here"


def test_another_frame_of_a_number_that_is_here_is_told_from_the_same_one() -> None:
    log = FrameLog(SAMPLE.job)
    one = frame(ALICE, vote(0, GOOD), sequence=3)
    other = frame(ALICE, vote(0, BAD), sequence=3)
    assert not log.differs(one)
    log.admit(one, 10)
    assert [log.differs(one), log.differs(other)] == [False, True]
    assert log.admit(other, 10) == "a frame of this number is here already"


def test_incarnations_of_an_author_count_apart() -> None:
    log = FrameLog(SAMPLE.job)
    assert admit(log, 0, incarnation=1) is None
    assert admit(log, 0, incarnation=2) is None
    assert log.positions() == (AuthorPosition(ALICE, 1, 1), AuthorPosition(ALICE, 2, 1))


def test_what_one_author_can_write_is_bounded_and_does_not_bound_another() -> None:
    log = FrameLog(SAMPLE.job)
    big = Claim(tuple(range(10)) * 10)
    taken = 0
    while log.admit(frame(MALLORY, big, sequence=taken, incarnation=taken), 10) is None:
        taken += 1
        assert taken < 100
    assert taken == (256 + 24 * 10) // 100
    assert admit(log, 0, ALICE) is None


def test_renewals_of_long_units_are_within_the_bound_as_the_job_goes_on() -> None:
    log = FrameLog(SAMPLE.job)
    for lease in range(2000):
        renewal = frame(ALICE, Claim((0, 1, 2, 3)), sequence=lease)
        assert log.admit(renewal, 10, leases=lease) is None


def test_a_summary_is_answered_with_what_is_missing() -> None:
    log = FrameLog(SAMPLE.job)
    for author in (ALICE, BOB, CAROL):
        for sequence in range(3):
            admit(log, sequence, author)
    theirs = (
        AuthorPosition(ALICE, 1, 3),
        AuthorPosition(BOB, 1, 2),
        AuthorPosition(CAROL, 1, 3),
        AuthorPosition(DAVE, 1, 9),
    )
    assert log.missing(ALICE, theirs) == [SendFrames(ALICE, SAMPLE.job, BOB, 1, 2, 3)]
    assert log.missing(DAVE, (AuthorPosition(BOB, 1, 2**53 - 1),)) == [
        SendFrames(DAVE, SAMPLE.job, author, 1, 0, 3) for author in sorted((ALICE, CAROL))
    ]


def test_an_author_that_has_lost_frames_of_its_own_gets_them_back() -> None:
    log = FrameLog(SAMPLE.job)
    for sequence in range(3):
        admit(log, sequence, ALICE)
    theirs = (AuthorPosition(ALICE, 1, 1), AuthorPosition(ALICE, 2, 5))
    assert log.missing(ALICE, theirs) == [SendFrames(ALICE, SAMPLE.job, ALICE, 1, 1, 3)]
    assert log.missing(ALICE, ()) == [SendFrames(ALICE, SAMPLE.job, ALICE, 1, 0, 3)]


def test_an_answer_is_bounded_and_the_next_one_goes_on() -> None:
    log = FrameLog(SAMPLE.job)
    for sequence in range(REPLY_FRAMES_MAX + 50):
        admit(log, sequence, ALICE)
        admit(log, sequence, BOB)
    asker = FrameLog(SAMPLE.job)
    rounds = 0
    while replies := log.missing(CAROL, asker.positions()):
        rounds += 1
        assert sum(reply.end - reply.first for reply in replies) <= REPLY_FRAMES_MAX
        for reply in replies:
            for sequence in range(reply.first, reply.end):
                assert admit(asker, sequence, reply.author) is None
    assert rounds == 3
    assert asker.positions() == log.positions()


def test_a_log_can_be_written_down_and_read_back() -> None:
    log = FrameLog(SAMPLE.job)
    admit(log, 0)
    admit(log, 2)
    data = msgspec.msgpack.encode(log)
    assert msgspec.msgpack.decode(data, type=FrameLog) == log
