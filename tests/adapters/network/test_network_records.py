"""Values of the DHT: publishers' records of their jobs, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.kad_dht.common import PROTOCOL_ID
from network_harness import meet, node, trio_test, until

from p2pfleet.core.model.ids import JobId, NetworkId
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules.jobs_record import jobs_key
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import JobsRecord, OwnJob
from p2pfleet.runtime.clock import SystemClock
from p2pfleet.runtime.jobs_records import JobsRecords
from p2pfleet.runtime.signing import Signer

NETWORK = NetworkId(bytes(32))
PAULA, MALLORY = Signer(b"p" * 32), Signer(b"m" * 32)
KEY = jobs_key(PAULA.peer)
CLOCK = SystemClock()
RULE = JobsRecords(NetworkTerms(NETWORK), CLOCK)


def record(sequence: int, signer: Signer = PAULA, lasts_ms: int = 60_000) -> bytes:
    now = CLOCK.wall_ms()
    rows = (OwnJob(JobId(bytes(32)), now + lasts_ms),)
    body = JobsRecord(NETWORK, signer.peer, sequence, now, now + lasts_ms, rows)
    return encode(signer.seal(body))


async def soon(holds: Callable[[], Awaitable[bool]]) -> None:
    """Again and again: a routing table learns of the others in a moment."""
    for _ in range(100):
        if await holds():
            return
        await trio.sleep(0.2)
    raise AssertionError("never")


def keeping(number: int, *bootstrap: str) -> Any:
    return node(number, bootstrap, records=RULE)


@trio_test(60)
async def test_a_record_that_one_node_puts_is_found_by_another() -> None:
    async with (
        keeping(1) as one,
        keeping(2, *one.addresses) as two,
        keeping(3, *one.addresses) as three,
    ):
        await meet(one, two, three)
        old, new = record(1), record(2)

        async def newest() -> bool:
            return bool(await three.get_record(KEY) == new)

        await soon(lambda: one.put_record(KEY, old))
        assert await three.get_record(KEY) == old
        assert await two.put_record(KEY, new)
        await soon(newest)
        await one.put_record(KEY, old)
        assert await newest(), "an older one replaces nothing"


@trio_test(60)
async def test_what_is_no_record_of_that_publisher_is_not_stored() -> None:
    async with keeping(1) as one, keeping(2, *one.addresses) as two:
        await meet(one, two)
        await soon(lambda: one.put_record(KEY, record(1)))
        store = two._rendezvous._dht.value_store
        await until(lambda: KEY.encode() in store.store)
        give = one._rendezvous._dht.value_store._store_at_peer
        identity = two._host.get_id()
        for key, value in (
            (KEY, record(9, MALLORY)),  # another's
            (KEY, b"junk"),
            (KEY, record(9)[:-1]),
            (KEY, record(9, lasts_ms=-600_000)),  # over before it began
            ("/p2pfleet/jobs/nobody", record(9)),
            ("/other/key", record(9)),
            ("key", record(9)),
        ):
            one._rendezvous._dht.value_store.store.pop(key.encode(), None)
            assert not await give(identity, key.encode(), value), key
            assert not await one.put_record(key, value)
        assert list(store.store) == [KEY.encode()]
        assert await two.get_record(KEY) is not None
        assert await two.get_record(jobs_key(MALLORY.peer)) is None


@trio_test(60)
async def test_a_node_that_was_given_no_rule_stores_nothing() -> None:
    async with keeping(1) as one, node(2, one.addresses) as two:
        await meet(one, two)
        assert PROTOCOL_ID in two._host.multiselect.handlers
        assert not await one._rendezvous._dht.value_store._store_at_peer(
            two._host.get_id(), KEY.encode(), record(1)
        )
        assert not await two.put_record(KEY, record(1))
        assert await two.get_record(KEY) is None


@trio_test(60)
async def test_few_values_are_kept() -> None:
    async with keeping(1) as one:
        store = one._rendezvous._dht.value_store
        for number in range(600):
            store.put(b"/p2pfleet/jobs/%d" % number, b"value")
        assert len(store.store) == 512
        assert b"/p2pfleet/jobs/0" not in store.store
