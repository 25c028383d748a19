"""An own job on its way out: read and checked, noted, published; and what only its publisher knows.

Called by the running node, in whose process everything happens.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pfleet.adapters.store import FilePacks
from p2pfleet.adapters.store.durable_file import replace_file
from p2pfleet.config.node_file import NodeConfig
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import JobId, sha256
from p2pfleet.core.wire.codec import encode
from p2pfleet.publishing import Draft, SubmitRequest
from p2pfleet.runtime.clock import SystemClock
from p2pfleet.runtime.driver import Driver
from p2pfleet.runtime.inputs import packs_known

SUBMITTED = "submitted"


class Submitter:
    """Publishes the jobs of one node, and remembers where each came from.

    ``prepare`` makes a draft of a request: :func:`p2pfleet.publishing.prepare`.
    """

    def __init__(
        self,
        config: NodeConfig,
        driver: Driver,
        packs: FilePacks,
        clock: SystemClock,
        prepare: Callable[..., Any],
    ) -> None:
        self.prepare = prepare
        self._network = config.network.id
        self._notes = config.data_dir / SUBMITTED
        self._driver = driver
        self._packs = packs
        self._clock = clock

    async def submit(
        self, request: SubmitRequest, drafted: Callable[[Draft], None] | None = None
    ) -> JobId:
        """Read, check and publish a job; when this returns the job is durable.

        ``drafted`` hears what the checks found, before the job is published. Raises
        :class:`P2pfleetError` for whatever is wrong with it.
        """
        holder = secrets.token_bytes(16)
        node = self._driver.node
        snapshot = node.snapshot_for(request.model_class)
        try:
            draft = await self.prepare(
                request,
                network=self._network,
                publisher=node.me,
                wall_ms=self._clock.wall_ms(),
                pin=partial(self._packs.pin, holder),
                crowd=lambda: len(node.membership.volunteers()),
                snapshot=None if snapshot is None else snapshot.hash,
            )
            if drafted is not None:
                drafted(draft)
            sealed_id = JobId(sha256(encode(draft.manifest)))
            await trio.to_thread.run_sync(self._packs.pin, sealed_id, list(draft.blobs))
            await trio.to_thread.run_sync(self._note, sealed_id, request, draft)
            await self._driver.publish(draft.manifest)
            if not node.book.knows(sealed_id):
                raise P2pfleetError(
                    "The job was not published: its terms are outside what the network allows.",
                    "Check --quorum, --confidence, --replicas-max and --expires-h (30 days at "
                    "most).",
                    ExitCode.USAGE,
                )
            if draft.table is not None:
                await self._driver.submit(
                    await trio.to_thread.run_sync(
                        packs_known, sealed_id, draft.manifest, draft.table
                    )
                )
            if draft.ringers:
                await self._driver.submit(
                    ev.RingersKnown(sealed_id, draft.ringers_secret, draft.ringers)
                )
            return sealed_id
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._packs.unpin, holder)

    def _note(self, job: JobId, request: SubmitRequest, draft: Draft) -> None:
        """What only the publisher knows of a job, durable before anybody else hears of it: where it
        came from, what its units are called, and its ringers until it opens them."""
        self._notes.mkdir(mode=0o700, exist_ok=True)
        note = {
            "request": msgspec.to_builtins(request),
            "unit_names": list(draft.names),
            "ringers": [[ringer.unit, ringer.digest.hex()] for ringer in draft.ringers],
            "ringers_secret": draft.ringers_secret.hex(),
        }
        replace_file(self._place(job), msgspec.json.encode(note))

    def unit_names(self, job: JobId) -> tuple[str, ...]:
        """What the units of an own job are called; empty if that is not known any more."""
        try:
            note = self._place(job).read_bytes()
            return tuple(msgspec.json.decode(note)["unit_names"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError):
            return ()  # names are for people; a job without them is whole

    def _place(self, job: JobId) -> Path:
        return self._notes / f"{job.hex()}.json"


def request_of(params: Mapping[str, Any]) -> SubmitRequest:
    """A request that came over the control socket."""
    try:
        return msgspec.convert(params, SubmitRequest)
    except msgspec.ValidationError as error:
        raise P2pfleetError(
            f"The job cannot be published: {error}.",
            "See p2pfleet submit --help.",
            ExitCode.USAGE,
        ) from error


def answer(job: JobId, drafts: list[Draft]) -> dict[str, Any]:
    """What whoever asked for a job over the control socket hears of it."""
    return {
        "job": job.hex(),
        "warnings": [text for draft in drafts for text in draft.warnings],
        "notes": [text for draft in drafts for text in draft.notes],
        "terms": drafts[0].terms(),
    }
