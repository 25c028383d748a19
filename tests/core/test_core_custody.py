"""Custody: who keeps what a job needs, for how long, and who may have an output for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from core_bench import Bench, entries, execute, only, restarted, working
from core_samples import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    NETWORK,
    PAULA,
    Poll,
    digest,
    manifest,
    peer,
    received,
    seal,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.challenges import CHALLENGE_MS
from p2pfleet.core.machines.custody import GRACE_MS, PARTED_MS, ROUND_MS
from p2pfleet.core.model.ids import Digest, JobId, PeerId, cid_from_sha256, cid_sha256
from p2pfleet.core.rules import custody as rule
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedManifest

PACK = digest("a pack")
MODEL = Digest(cid_sha256(manifest().model))
OTHERS = (BOB, CAROL, DAVE, MALLORY)


def keeping(
    me: PeerId = ALICE, custody_bytes: int = 2**31, shards: int = 1
) -> tuple[Bench, VerifiedManifest]:
    """A volunteer among four others, with its publisher; the job has one pack."""
    bench = Bench(me)
    bench.node.custody_bytes = custody_bytes
    others = [one for one in (ALICE, *OTHERS) if one != me]
    bench.meet(PAULA, *others)
    job: VerifiedManifest = unseal(seal(manifest(units=shards, shards=shards)))
    bench.tell(ev.ManifestReceived(PAULA, job))
    for other in others:
        bench.node.jobs[job.job].join(other)
    bench.tell(ev.InputsKnown(job.job, ((PACK, 500, (0,)),)))
    bench.tell(ev.JobOpened(job.job))
    return bench, job


def wanted(effects: list[Any]) -> list[Digest]:
    return [Digest(effect.ref.sha256) for effect in only(ef.Fetch, effects)]


def place(job: JobId, blob: Digest) -> int:
    """Where Alice stands among all volunteers."""
    return rule.place(job, blob, ALICE, OTHERS)


def meant_for(position: int, job: JobId, without: tuple[PeerId, ...] = ()) -> Digest:
    """A digest for which Alice stands at ``position`` among all but those."""
    others = [one for one in OTHERS if one not in without]
    for number in range(1_000):
        blob = digest(f"blob {number}")
        if rule.place(job, blob, ALICE, others) == position:
            return blob
    raise AssertionError


def with_pack(bench: Bench, job: VerifiedManifest, blob: Digest, length: int = 500) -> None:
    """Let the job's pack be this one."""
    custody = bench.node.jobs[job.job].custody
    custody.inputs, custody.concerning = {blob: length}, ((), ())


def arrive(bench: Bench, job: JobId, told: list[Any]) -> list[Any]:
    """What the node fetched comes."""
    more: list[Any] = []
    for effect in only(ef.Fetch, told):
        more += bench.tell(ev.BlobArrived(job, effect.ref))
    return more


def kept(effects: list[Any]) -> list[Digest]:
    found = [entry for entry in entries(effects) if isinstance(entry, ms.Keep)]
    return [blob for entry in found for blob in entry.digests]


def test_who_ranks_lowest_fetches_at_once_and_signs_when_it_has_it() -> None:
    bench, job = keeping()
    with_pack(bench, job, meant_for(0, job.job))
    told = bench.wait(1_100)
    (blob,) = wanted(told)
    assert not kept(told), "not before it is durable"
    told = arrive(bench, job.job, told) + bench.wait(1_100)
    assert blob in kept(told)
    assert blob in bench.node.jobs[job.job].custody.mine


def test_who_stands_behind_waits_for_those_before_it() -> None:
    bench, job = keeping()
    blob = meant_for(4, job.job)
    with_pack(bench, job, blob)
    assert wanted(bench.wait(rule.wait_ms(4, 3, 500) - 500)) == []
    assert wanted(bench.wait(3_000)) == [blob]


def test_what_three_others_keep_is_left_to_them_until_one_is_gone_for_long() -> None:
    bench, job = keeping()
    blob = meant_for(0, job.job, (BOB, CAROL, DAVE))
    with_pack(bench, job, blob)
    poll = Poll(job.job)
    bench.hear(*(poll[one].says(ms.Keep((blob,))) for one in (BOB, CAROL, DAVE)))
    assert wanted(bench.wait(5_000)) == []
    bench.tell(ev.PeerDisconnected(BOB))
    assert wanted(bench.wait(GRACE_MS - 2_000)) == [], "it may come back"
    assert wanted(bench.wait(4_000)) == [blob]


def test_whoever_left_a_shard_in_good_order_still_has_what_it_keeps() -> None:
    for parts, expected in ((True, PARTED_MS), (False, GRACE_MS)):
        bench, job = keeping(shards=2)
        bench.node.jobs[job.job].shards.home = 0
        blob = meant_for(0, job.job, (BOB, CAROL, DAVE))
        with_pack(bench, job, blob)
        poll = Poll(job.job)
        bench.hear(*(poll[one].says(ms.Keep((blob,))) for one in (BOB, CAROL, DAVE)))
        bench.wait(2_000)
        if parts:  # it serves the shard no more, and says so
            bench.tell(ev.FramesSummaryReceived(BOB, job.job, (), serving=False))
        bench.tell(ev.PeerDisconnected(BOB))
        assert wanted(bench.wait(expected - 5_000)) == [], parts
        assert wanted(bench.wait(10_000)) == [blob], parts


def test_the_publisher_of_many_shards_believes_keepers_until_it_has_been_round() -> None:
    for shards, believed in ((1, 0), (20, 3)):
        bench = Bench(PAULA, slots=0)
        job = bench.publish(units=20, shards=shards)
        bench.tell(ev.InputsKnown(job, ((PACK, 500, (0,)),)))
        bench.hear(*(Poll(job)[one].says(ms.Keep((PACK,))) for one in (BOB, CAROL, DAVE)))
        bench.wait(GRACE_MS + 5_000)
        assert bench.node.kept(bench.node.jobs[job], bench.now)[PACK] == believed
        bench.wait(ROUND_MS)
        assert bench.node.kept(bench.node.jobs[job], bench.now)[PACK] == 0


def test_beyond_the_quota_nothing_is_taken_and_one_publisher_gets_half_of_it() -> None:
    for quota, taken in ((999, []), (1_000, [True])):
        bench, job = keeping(custody_bytes=quota)
        with_pack(bench, job, meant_for(0, job.job))
        assert [True for _ in wanted(bench.wait(1_100))] == taken
    bench, job = keeping(custody_bytes=1_000)
    with_pack(bench, job, meant_for(0, job.job))
    arrive(bench, job.job, bench.wait(1_100))
    bench.wait(1_000)
    assert bench.node.kept_bytes == 500
    assert not bench.node._has_room(PAULA, 1), "half of it for one publisher"
    assert bench.node._has_room(peer("pete"), 500)
    assert not bench.node._has_room(peer("pete"), 501), "and the rest for the others"


def test_what_is_missing_after_a_restart_is_dropped_and_the_rest_still_kept() -> None:
    bench, job = keeping()
    bench.wait(40_000)
    arrive(bench, job.job, bench.effects)
    bench.wait(1_100)
    mine = sorted(bench.node.jobs[job.job].custody.mine)
    assert set(mine) == {PACK, MODEL}

    again = restarted(bench)
    again.meet(PAULA, *OTHERS)
    again.tell(ev.InputsKnown(job.job, ((PACK, 500, (0,)),)))
    told = again.tell(ev.JobOpened(job.job)) + again.wait(1_100)
    asked = {Digest(one.ref.sha256): one.ref for one in only(ef.Fetch, told)}
    assert set(asked) == {PACK, MODEL}
    again.tell(ev.BlobArrived(job.job, asked[MODEL]))
    again.tell(ev.BlobFailed(job.job, asked[PACK], "gone"))
    told = again.wait(100)
    assert [entry for entry in entries(told) if isinstance(entry, ms.Drop)] == [ms.Drop((PACK,))]
    assert list(again.node.jobs[job.job].custody.mine) == [MODEL]
    assert again.node.kept_bytes == 1_000, "the length is known again"


def certified(bench: Bench, job: VerifiedManifest, voters: tuple[PeerId, ...]) -> None:
    bench.hear(*Poll(job.job).closed({who: {0: GOOD} for who in voters}))
    assert bench.state(0) == "certified"


def test_an_output_is_copied_only_while_the_publisher_is_away() -> None:
    bench, job = keeping()
    certified(bench, job, (BOB, CAROL))
    custody = bench.node.jobs[job.job].custody
    custody.inputs, custody.concerning = {}, ((), ())
    assert wanted(bench.wait(60_000)) == []
    bench.tell(ev.PeerDisconnected(PAULA))
    told = bench.wait(40_000)
    assert wanted(told) == [GOOD]
    (fetch,) = only(ef.Fetch, told)
    assert set(fetch.sources) == {BOB, CAROL}


def test_three_voters_are_copies_enough() -> None:
    bench, job = keeping()
    certified(bench, job, (BOB, CAROL, DAVE))
    custody = bench.node.jobs[job.job].custody
    custody.inputs, custody.concerning = {}, ((), ())
    bench.tell(ev.PeerDisconnected(PAULA))
    assert wanted(bench.wait(60_000)) == []


def test_who_keeps_an_output_does_not_claim_its_unit() -> None:
    bench, job = keeping()
    certified(bench, job, (BOB, CAROL))
    custody = bench.node.jobs[job.job].custody
    assert not custody.barred(0, bench.settlement())
    bench.tell(ev.PeerDisconnected(PAULA))
    bench.wait(40_000)
    assert custody.barred(0, bench.settlement())
    bench.settlement().ask([0])
    assert not [one for one in entries(bench.wait(20_000)) if isinstance(one, ms.Claim)]


def holding(bench: Bench, job: VerifiedManifest) -> None:
    """Alice and Bob vote for the output of unit 0, and the publisher leaves."""
    poll = Poll(job.job)
    execute(bench, job, 0)
    theirs = poll[BOB].commits({0: GOOD})
    bench.hear(theirs)
    bench.wait(200)
    mine = [unseal(one.frame) for one in only(ef.SaveFrame, bench.effects)]
    mine = [
        one
        for one in mine
        if one.author == ALICE and any(isinstance(e, ms.Commit) for e in one.frame.entries)
    ]
    bench.hear(poll[BOB].reveals(theirs, [theirs, *mine]))
    bench.wait(6_000)
    assert bench.state(0) == "certified"
    bench.tell(ev.PeerDisconnected(PAULA))


def test_an_output_is_given_for_custody_to_the_lowest_ranks_alone() -> None:
    bench, job = keeping()
    holding(bench, job)
    cid = cid_from_sha256(GOOD)
    third = sorted((CAROL, DAVE, MALLORY), key=partial(rule.rank, job.job, GOOD))
    assert not any(bench.node.may_fetch(one, cid) for one in third), "the publisher just left"
    bench.wait(7_000)
    assert [bench.node.may_fetch(one, cid) for one in third] == [True, True, False]
    bench.wait(12_000)
    assert all(bench.node.may_fetch(one, cid) for one in third), "the others had their time"


def test_to_sign_for_an_output_entitles_nobody_to_it() -> None:
    bench, job = keeping()
    holding(bench, job)
    last = max((CAROL, DAVE, MALLORY), key=partial(rule.rank, job.job, GOOD))
    bench.hear(Poll(job.job)[last].says(ms.Keep((GOOD,))))
    bench.wait(7_000)
    assert not bench.node.may_fetch(last, cid_from_sha256(GOOD))


def test_a_custodian_gives_an_output_to_nobody_but_the_publisher_also_after_a_restart() -> None:
    bench, job = keeping()
    certified(bench, job, (BOB, CAROL))
    bench.tell(ev.PeerDisconnected(PAULA))
    told = bench.wait(40_000)
    told += arrive(bench, job.job, told) + bench.wait(1_100)
    assert GOOD in kept(told)
    cid = cid_from_sha256(GOOD)
    for node in (bench.node, restarted(bench).node):
        assert not node.may_fetch(MALLORY, cid) or node.jobs[job.job].custody.may_have(
            node.jobs[job.job].settlement, MALLORY, GOOD
        )
        assert node.may_fetch(PAULA, cid)
        assert node.may_fetch(MALLORY, manifest().model), "inputs are for everybody"
    assert not restarted(bench).node.may_fetch(MALLORY, cid)


def test_a_keeper_that_does_not_answer_twice_counts_no_more_and_is_replaced() -> None:
    bench, job = keeping()
    blob = meant_for(0, job.job, (BOB, CAROL))
    with_pack(bench, job, blob)
    arrive(bench, job.job, bench.wait(1_100))
    bench.wait(1_000)
    poll = Poll(job.job)
    bench.hear(*(poll[one].says(ms.Keep((blob,))) for one in (BOB, CAROL)))
    job_here = bench.node.jobs[job.job]
    asked: dict[PeerId, int] = {}
    for _ in range(60):
        for effect in only(ef.Challenge, bench.wait(2_000)):
            assert (effect.digest, effect.length) == (blob, 500)
            asked[effect.peer] = asked.get(effect.peer, 0) + 1
            verdict = "absent" if effect.peer == BOB else "good"
            bench.tell(ev.ChallengeAnswered(job.job, blob, effect.peer, verdict))
    assert asked[BOB] == 2, "then it is not asked for it any more"
    assert 1 <= asked[CAROL] <= 2 + 120_000 // (CHALLENGE_MS // 2)
    assert bench.node.kept(job_here, bench.now)[blob] == 2, "itself and Carol"
    assert not bench.node.standing.proved, "nobody else hears of it"


def test_wrong_bytes_are_enough_once() -> None:
    bench, job = keeping()
    blob = meant_for(0, job.job)
    with_pack(bench, job, blob)
    bench.hear(Poll(job.job)[BOB].says(ms.Keep((blob,))))
    job_here = bench.node.jobs[job.job]
    assert bench.node.kept(job_here, bench.now)[blob] == 1
    bench.tell(ev.ChallengeAnswered(job.job, blob, BOB, "wrong"))
    assert bench.node.kept(job_here, bench.now)[blob] == 0


def test_inputs_are_had_from_the_publisher_then_from_keepers() -> None:
    bench, job = working(units=4)
    bench.meet(CAROL, DAVE)
    bench.tell(ev.InputsKnown(job.job, ((PACK, 500, (0,)),)))
    bench.hear(Poll(job.job)[DAVE].says(ms.Keep((PACK,))))
    bench.wait(1_100)
    here = bench.node.jobs[job.job]
    assert bench.node.sources(here) == (PAULA, DAVE, *sorted((BOB, CAROL)))
    bench.tell(ev.PeerDisconnected(PAULA))
    bench.wait(1_100)
    assert bench.node.sources(here)[0] == DAVE


# ---- the publisher's record of its jobs ------------------------------------------------------


def records(effects: list[Any]) -> list[ms.JobsRecord]:
    return [one.body for one in only(ef.Sign, effects) if isinstance(one.body, ms.JobsRecord)]


def test_a_publisher_records_its_jobs_and_unrecords_them() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE)
    job = bench.publish()
    (record,) = records(told := bench.wait(2_000))
    assert [row.job for row in record.jobs] == [job]
    assert only(ef.PublishRecord, told)
    assert only(ef.SaveJobsRecord, told)
    assert records(bench.wait(60_000)) == []
    bench.tell(ev.CancelRequested(job))
    (empty,) = records(bench.wait(2_000))
    assert empty.jobs == ()
    assert empty.sequence > record.sequence
    assert empty.expires_ms == record.expires_ms, "it lasts as long as what it replaces"


def own_job() -> tuple[ms.Sealed, JobId, ms.Sealed]:
    """A job of Paula's, its id, and her record of it."""
    sealed = seal(manifest())
    job = ms.job_id(sealed)
    body = manifest()
    rows = (ms.OwnJob(job, body.expires_ms),)
    record = ms.JobsRecord(NETWORK, PAULA, 5, body.issued_ms, body.expires_ms, rows)
    return sealed, job, seal(record)


def test_an_empty_folder_takes_a_job_up_that_its_own_record_names() -> None:
    sealed, job, record = own_job()
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE)
    bench.tell(received(ALICE, sealed))
    assert job not in bench.node.jobs, "what others bring is no job of its own"
    told = bench.tell(received(ALICE, record))
    assert any(isinstance(one.message, ms.JobsSummary) for one in only(ef.Send, told))
    told = bench.tell(received(ALICE, sealed))
    assert bench.node.jobs[job].own
    assert ef.SaveJob(job, sealed, True) in told


def test_an_empty_folder_takes_up_what_its_person_asks_for() -> None:
    sealed, job, _ = own_job()
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE)
    assert only(ef.Send, bench.tell(ev.JobsWanted()))
    bench.tell(received(ALICE, sealed))
    assert bench.node.jobs[job].publisher is not None


def test_a_new_record_keeps_the_jobs_that_only_the_old_one_names() -> None:
    _, old, record = own_job()
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE)
    new = bench.publish(name="another")
    bench.tell(received(ALICE, record))
    found = records(bench.wait(2_000))
    assert {row.job for row in found[-1].jobs} == {old, new}


def test_volunteers_keep_the_newest_record_for_the_publisher_and_nobody_elses() -> None:
    bench, _ = working()
    _, _, record = own_job()
    strangers = ms.JobsRecord(NETWORK, MALLORY, 1, 5, 6, ())
    assert not only(ef.SaveJobsRecord, bench.tell(received(BOB, seal(strangers))))
    assert only(ef.SaveJobsRecord, bench.tell(received(PAULA, record)))
    assert not only(ef.SaveJobsRecord, bench.tell(received(PAULA, record))), "it is here already"
    bench.tell(ev.PeerDisconnected(PAULA))
    told = bench.meet(PAULA)
    assert [one for one in only(ef.Send, told) if one.message == ms.Deliver(record)]
    again = restarted(bench)
    assert again.node.directory.records[PAULA].sealed == record
