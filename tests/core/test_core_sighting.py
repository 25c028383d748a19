"""A publisher of many shards is not connected with everybody: how it is known to be there."""

from __future__ import annotations

from typing import Any

from core_bench import Bench, only
from core_samples import ALICE, BOB, CAROL, PAULA, WALL_MS, manifest, record, seal, unseal

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.sighting import SEEN_MS, SIGN_MS
from p2pfleet.core.model.ids import JobId
from p2pfleet.core.wire import messages as ms


def taking_part(shards: int = 4) -> tuple[Bench, JobId]:
    """Alice in a job whose publisher is not connected with her; Bob and Carol are."""
    bench = Bench(ALICE)
    bench.meet(BOB, CAROL)
    job = unseal(seal(manifest(units=shards, shards=shards)))
    bench.tell(ev.ManifestReceived(BOB, job))
    bench.tell(ev.JobOpened(job.job))
    return bench, job.job


def handed_on(bench: Bench, sequence: int, by: Any = BOB, issued_ms: int | None = None) -> None:
    issued_ms = WALL_MS + bench.now if issued_ms is None else issued_ms
    bench.tell(ev.RecordReceived(by, record(PAULA, sequence=sequence, issued_ms=issued_ms)))


def there(bench: Bench, job: JobId) -> bool:
    return bench.node.jobs[job].publisher_is_there(bench.node.membership.here, bench.now)


def told(effects: list[Any]) -> list[tuple[Any, int]]:
    """To whom the publisher's record was handed on, and which."""
    found = []
    for effect in only(ef.Send, effects):
        if isinstance(effect.message, ms.Deliver):
            body = unseal(effect.message.sealed)
            if hasattr(body, "record") and isinstance(body.record, ms.PeerRecord):
                found.extend((peer, body.record.sequence) for peer in effect.peers)
    return found


def test_a_publisher_that_was_heard_of_lately_is_there() -> None:
    bench, job = taking_part()
    assert not there(bench, job)
    handed_on(bench, 1)
    assert there(bench, job)
    bench.wait(SEEN_MS - 1)
    assert there(bench, job)
    handed_on(bench, 1)  # the same word once more says nothing new
    bench.wait(1)
    assert not there(bench, job)
    handed_on(bench, 2)
    assert there(bench, job)


def test_old_words_and_those_of_others_say_nothing_of_a_publisher() -> None:
    bench, job = taking_part()
    bench.tell(ev.RecordReceived(BOB, record(CAROL, sequence=9)))
    handed_on(bench, 1, issued_ms=WALL_MS - 1_000_000)
    assert not there(bench, job)


def test_in_a_job_of_one_shard_only_a_connection_counts() -> None:
    bench, job = taking_part(shards=1)
    handed_on(bench, 1)
    assert not there(bench, job)


def test_it_is_handed_on_to_everybody_in_turn_and_once() -> None:
    bench, job = taking_part()
    handed_on(bench, 1, by=BOB)
    assert set(told(bench.wait(60_000))) == {(CAROL, 1)}, "Bob has it"
    handed_on(bench, 2, by=CAROL)
    found = told(bench.wait(60_000))
    assert found == [(BOB, 2)]
    bench.wait(SEEN_MS)
    assert not told(bench.wait(60_000)), "what is old is of no use"
    assert not there(bench, job)


def test_a_publisher_of_many_shards_signs_its_record_again_and_again() -> None:
    for shards, count in ((1, 0), (4, 3)):
        bench = Bench(PAULA, slots=0)
        bench.meet(BOB)
        bench.publish(units=4, shards=shards)
        signed = [
            effect.body
            for effect in only(ef.Sign, bench.wait(3 * SIGN_MS - 1))
            if isinstance(effect.body, ms.PeerRecord)
        ]
        assert len(signed) == count
        assert len({body.sequence for body in signed}) == count
