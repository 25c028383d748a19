"""Receipts outside the core: what they add up to, written to a file, and checked from one.

A file of receipts holds one sealed receipt a line, as JSON (``protocol/credit.md``). Credit is
what one publisher says; sums are made by publisher and never across.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from p2pfleet.adapters.store.durable_file import replace_file
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import JobId, NetworkId, PeerId, peer_text
from p2pfleet.core.rules.credit import BONUS_MAX_MILLI, MILLI
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Manifest, Receipt, Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedReceipt
from p2pfleet.ports import Store
from p2pfleet.results import SealedText
from p2pfleet.runtime.signing import open_sealed

log = logging.getLogger(__name__)

LINE_MAX_BYTES = 8 * 1024
PROBLEMS_MAX = 100


class Sum(msgspec.Struct):
    """What some receipts of one publisher add up to."""

    units: int = 0
    work: int = 0
    credit: int = 0
    receipts: int = 0

    def add(self, receipt: Receipt) -> None:
        """One more."""
        self.units += receipt.units
        self.work += receipt.work
        self.credit += receipt.credit
        self.receipts += 1


# ---- what a node has -----------------------------------------------------------------------------


def _stored(store: Store, publishers: Collection[PeerId]) -> Iterator[tuple[Sealed, Receipt]]:
    """The receipts in a store, by job; of ``publishers`` only, if there are any."""
    for sealed in store.receipts():
        try:
            receipt: Receipt = decode(sealed.body, Receipt, MAX_FRAME_BYTES)
        except Malformed as error:
            log.warning("a receipt in the store is damaged and is left out: %s", error)
            continue
        if not publishers or receipt.publisher in publishers:
            yield sealed, receipt


def credit_view(store: Store, me: PeerId, publishers: Collection[PeerId] = ()) -> dict[str, Any]:
    """What this node has earned, by publisher and job, and what it owes for jobs of its own.

    Blocks. Raises :class:`P2pfleetError` when the store cannot be read.
    """
    sums: dict[PeerId, dict[JobId, Sum]] = {}
    issued: dict[JobId, int] = {}
    for _, receipt in _stored(store, publishers):
        jobs = sums.setdefault(receipt.publisher, {})
        jobs.setdefault(receipt.job, Sum()).add(receipt)
        issued[receipt.job] = max(issued.get(receipt.job, 0), receipt.issued_ms)
    return {
        "peer": peer_text(me),
        "publishers": [
            {
                "publisher": text,
                "own": publisher == me,
                **_total(sums[publisher].values()),
                "jobs": [
                    {
                        "job": job.hex(),
                        "name": _name(store, job),
                        **msgspec.to_builtins(sums[publisher][job]),
                        "issued_ms": issued[job],
                    }
                    for job in sums[publisher]
                ],
            }
            for text, publisher in sorted((peer_text(each), each) for each in sums)
        ],
    }


def _total(sums: Iterable[Sum]) -> dict[str, int]:
    total = Sum()
    for each in sums:
        total.units += each.units
        total.work += each.work
        total.credit += each.credit
        total.receipts += each.receipts
    found: dict[str, int] = msgspec.to_builtins(total)
    return found


def _name(store: Store, job: JobId) -> str:
    stored = store.job(job)
    if stored is None:
        return ""
    try:
        manifest: Manifest = decode(stored.manifest.body, Manifest, MAX_FRAME_BYTES)
    except Malformed:
        return ""
    return manifest.name


def export_receipts(store: Store, file: Path, publishers: Collection[PeerId] = ()) -> int:
    """Write the receipts of a store to ``file``, whole or not at all; returns how many.

    Blocks. Raises :class:`P2pfleetError` when there are none, or the file cannot be written.
    """
    lines = [
        msgspec.json.encode(SealedText.of(sealed)) + b"\n"
        for sealed, _ in _stored(store, publishers)
    ]
    if not lines:
        raise P2pfleetError(
            "There are no receipts to export.",
            "A publisher signs the first a minute after a unit was settled; 'p2pfleet credit' shows"
            " those that are here.",
        )
    try:
        replace_file(file, b"".join(lines))
    except OSError as error:
        raise P2pfleetError(
            f"{file} cannot be written: {error.strerror or error}.",
            "Choose another place for --export.",
        ) from error
    return len(lines)


# ---- what a file says ----------------------------------------------------------------------------


class CheckedReceipts(msgspec.Struct, frozen=True):
    """What a file of receipts proves: sums by publisher. It holds if ``problems`` is empty."""

    receipts: int
    peers: int
    sums: dict[PeerId, dict[JobId, Sum]]
    problems: tuple[str, ...]


class _Check:
    """The receipts of a file, as far as they were read."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.newest: dict[tuple[JobId, PeerId], Receipt] = {}
        self.jobs: dict[JobId, Receipt] = {}
        self.network: NetworkId | None = None

    def problem(self, number: int, text: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(f"line {number}: {text}")

    def line(self, number: int, line: bytes) -> None:
        """Take one line in."""
        try:
            verified = open_sealed(msgspec.json.decode(line, type=SealedText).sealed())
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self.problem(number, "it is no sealed receipt")
        except Malformed as error:
            return self.problem(number, f"{error}")
        if not isinstance(verified, VerifiedReceipt):
            return self.problem(number, "what is signed there is no receipt")
        fault = self._fault(verified.receipt)
        if fault:
            return self.problem(number, fault)
        return self._keep(number, verified.receipt)

    def _fault(self, receipt: Receipt) -> str:
        if self.network is None:
            self.network = receipt.network
        if receipt.network != self.network:
            return "it is of another network than the receipts before it"
        if receipt.publisher == receipt.peer:
            return "a publisher earns nothing with its own job"
        if receipt.work % receipt.units:
            return "its work is no multiple of its units"
        if not receipt.work <= receipt.credit <= receipt.work * BONUS_MAX_MILLI // MILLI:
            return "its credit is not what its work can earn"
        other = self.jobs.setdefault(receipt.job, receipt)
        if other.publisher != receipt.publisher:
            return "another publisher signed a receipt of the same job"
        if other.work * receipt.units != receipt.work * other.units:
            return "its units are worth something else than in another receipt of the same job"
        return ""

    def _keep(self, number: int, receipt: Receipt) -> None:
        key = (receipt.job, receipt.peer)
        other = self.newest.get(key)
        if other is not None:
            same = other.number == receipt.number
            self.problem(
                number,
                "this receipt, or another of the same number, stands there twice"
                if same
                else "there is a receipt of another number for the same job and peer, and only the "
                "last one counts",
            )
        if other is None or other.number < receipt.number:
            self.newest[key] = receipt


def check_receipts(file: Path) -> CheckedReceipts:
    """Check every receipt in ``file``: its signature, its signer, its sums, and that none stands
    there twice. Needs nothing but the file.

    Whose key a publisher's is, is another question. Raises :class:`P2pfleetError` if the file
    cannot be read or holds nothing.
    """
    check = _Check()
    count = 0
    for count, line in enumerate(_lines(file), 1):
        if len(line) > LINE_MAX_BYTES:
            check.problem(count, "it is longer than a receipt can be")
            break
        check.line(count, line)
    if not count:
        raise P2pfleetError(
            f"{file} is empty.",
            "Name a file that 'p2pfleet credit --export' wrote.",
            ExitCode.USAGE,
        )
    sums: dict[PeerId, dict[JobId, Sum]] = {}
    for receipt in check.newest.values():
        jobs = sums.setdefault(receipt.publisher, {})
        jobs.setdefault(receipt.job, Sum()).add(receipt)
    return CheckedReceipts(
        receipts=len(check.newest),
        peers=len({peer for _, peer in check.newest}),
        sums={peer: sums[peer] for peer in sorted(sums, key=peer_text)},
        problems=tuple(check.problems),
    )


def checked_view(checked: CheckedReceipts) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "receipts": checked.receipts,
        "peers": checked.peers,
        "publishers": [
            {
                "publisher": peer_text(publisher),
                **_total(jobs.values()),
                "jobs": [
                    {"job": job.hex(), **msgspec.to_builtins(total)}
                    for job, total in sorted(jobs.items())
                ],
            }
            for publisher, jobs in checked.sums.items()
        ],
        "problems": list(checked.problems),
    }


def _lines(file: Path) -> Iterator[bytes]:
    """The lines of a file, each read as far as it may be long."""
    try:
        with file.open("rb") as stream:
            while line := stream.readline(LINE_MAX_BYTES + 1):
                yield line
    except OSError as error:
        why = "it is not there" if error.errno == errno.ENOENT else error.strerror or str(error)
        raise P2pfleetError(
            f"{file} cannot be read: {why}.",
            "Name a file that 'p2pfleet credit --export' wrote.",
            ExitCode.USAGE,
        ) from error
