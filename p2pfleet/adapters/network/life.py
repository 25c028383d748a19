"""The life of a host: opened for a context, closed in time however the context ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from p2pfleet.adapters.network.addresses import parse_bootstrap, parse_listen
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import Tasks, describe, tame_library
from p2pfleet.adapters.network.host import CLOSE_S, Host
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import NetworkId
from p2pfleet.ports import (
    AddressBook,
    BanBook,
    BlobGate,
    BlobReader,
    Clock,
    MemberGate,
    RecordRule,
    Validator,
)

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_host(
    config: NetworkConfig,
    *,
    seed: bytes,
    network: NetworkId,
    validator: Validator,
    addresses: AddressBook,
    blobs: BlobReader,
    may_fetch: BlobGate,
    clock: Clock,
    gate: MemberGate | None = None,
    swarm_key: bytes | None = None,
    records: RecordRule | None = None,
    bans: BanBook | None = None,
) -> AsyncIterator[Host]:
    """See :func:`p2pfleet.adapters.network.open_network`."""
    assert len(seed) == 32
    tame_library()
    for text in config.listen:
        parse_listen(text)
    for text in config.bootstrap:
        parse_bootstrap(text)
    life = _Life(
        lambda tasks: Host(
            config,
            seed=seed,
            network=network,
            validator=validator,
            addresses=addresses,
            blobs=blobs,
            may_fetch=may_fetch,
            clock=clock,
            records=records,
            tasks=tasks,
            gate=gate,
            swarm_key=swarm_key,
            bans=bans,
        )
    )
    try:
        async with trio.open_nursery() as caller:
            caller.start_soon(life.live)
            try:
                await life.started.wait()
                assert life.host is not None
                yield life.host
            finally:
                life.stop.set()
    except BaseExceptionGroup as group:
        alone = _single(group)
        if alone is None:
            raise
        raise alone from alone.__cause__


def _single(error: BaseException) -> BaseException | None:
    """The one exception inside a group of groups, if there is exactly one."""
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error


class _Life:
    """Runs a host behind a shield: cancelling the caller closes it instead of tearing it."""

    def __init__(self, build: Callable[[Tasks], Host]) -> None:
        self._build = build
        self._scope = trio.CancelScope(shield=True)
        self.stop = trio.Event()
        self.started = trio.Event()
        self.host: Host | None = None

    async def live(self) -> None:
        """Run from the first listening socket to the last closed one."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._deadline)
                    self.host = self._build(Tasks(nursery))
                    await self.host.run(self.stop, self.started.set)
                    nursery.cancel_scope.cancel()
        except Exception as error:
            alone = _single(error)
            if isinstance(alone, P2pfleetError):
                raise alone from None
            logger.error("the network failed", exc_info=True)
            raise P2pfleetError(
                f"The network stopped: {describe(error)}.",
                "Start the node again; if it happens again, report the log.",
            ) from error

    async def _deadline(self) -> None:
        """Whatever does not end by itself when it is told to is cancelled."""
        await self.stop.wait()
        await trio.sleep(CLOSE_S + 0.3)
        self._scope.cancel()
