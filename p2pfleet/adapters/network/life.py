"""The life of a host: opened for a context, closed in time however the context ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2pfleet.adapters.network.addresses import parse_bootstrap, parse_listen
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import Tasks, tame_library
from p2pfleet.adapters.network.host import CLOSE_S, Host
from p2pfleet.core.model.ids import NetworkId
from p2pfleet.ports import AddressBook, BlobReader, Clock, Validator


@asynccontextmanager
async def open_host(
    config: NetworkConfig,
    *,
    seed: bytes,
    network: NetworkId,
    validator: Validator,
    addresses: AddressBook,
    blobs: BlobReader,
    clock: Clock,
) -> AsyncIterator[Host]:
    """See :func:`p2pfleet.adapters.network.open_network`."""
    assert len(seed) == 32
    tame_library()
    for text in config.listen:
        parse_listen(text)
    for text in config.bootstrap:
        parse_bootstrap(text)
    stop = trio.Event()
    try:
        async with trio.open_nursery() as caller:
            life = _Life(stop, config, seed, network, validator, addresses, blobs, clock)
            host: Host = await caller.start(life)
            try:
                yield host
            finally:
                stop.set()
    except BaseExceptionGroup as group:
        alone = _single(group)
        if alone is None:
            raise
        raise alone from alone.__cause__


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The one exception inside a group, if there is exactly one."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error


class _Life:
    """Runs a host behind a shield: cancelling the caller closes it instead of tearing it."""

    __name__ = "network"

    def __init__(
        self,
        stop: trio.Event,
        config: NetworkConfig,
        seed: bytes,
        network: NetworkId,
        validator: Validator,
        addresses: AddressBook,
        blobs: BlobReader,
        clock: Clock,
    ) -> None:
        self._stop = stop
        self._scope = trio.CancelScope(shield=True)
        self._build: Callable[[Tasks], Host] = lambda tasks: Host(
            config,
            seed=seed,
            network=network,
            validator=validator,
            addresses=addresses,
            blobs=blobs,
            clock=clock,
            tasks=tasks,
        )

    async def __call__(self, *, task_status: Any) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deadline)
                host = self._build(Tasks(nursery))
                await host.run(self._stop, lambda: task_status.started(host))
                nursery.cancel_scope.cancel()

    async def _deadline(self) -> None:
        """Whatever does not end by itself when it is told to is cancelled."""
        await self._stop.wait()
        await trio.sleep(CLOSE_S + 0.3)
        self._scope.cancel()
