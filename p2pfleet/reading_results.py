"""Reads a results folder as a stranger would: every line strictly, every signature checked.

What is wrong is collected, not raised, so that a reader hears of all of it; only a folder that is
none ends in :class:`P2pfleetError`. What the files then prove is ``verify``'s affair.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError, Reject
from p2pfleet.core.model.ids import Digest, FrameHash
from p2pfleet.core.model.network import NetworkParameters, NetworkTerms, network_terms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules.admission import judge_frame
from p2pfleet.core.wire.verified import (
    VerifiedFrame,
    VerifiedManifest,
    VerifiedSnapshot,
)
from p2pfleet.results import (
    FRAMES,
    HASHED,
    MANIFEST,
    REPORT,
    SNAPSHOTS,
    FrameLine,
    NetworkText,
    SealedText,
    SnapshotLine,
)
from p2pfleet.runtime.signing import open_sealed

T = TypeVar("T")
PROBLEMS_MAX = 100
MAX_LINE_BYTES = 256 * 1024
MAX_REPORT_BYTES = 256 * 2**20


class Problems:
    """Collects what does not hold; the first hundred are kept."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, text: str) -> None:
        """Note one more."""
        if len(self.found) < PROBLEMS_MAX:
            self.found.append(text)


def read_manifest(folder: Path) -> VerifiedManifest:
    """The signed manifest. Raises :class:`P2pfleetError`: without one it is no results folder."""
    try:
        data = _bounded(folder / MANIFEST, MAX_LINE_BYTES)
    except OSError as error:
        raise P2pfleetError(
            f"{folder} is no results folder: {MANIFEST} cannot be read "
            f"({error.strerror or error}).",
            "Name the folder that `p2pfleet submit --output` or `job results` wrote.",
            ExitCode.USAGE,
        ) from error
    try:
        text = _strict(data.removesuffix(b"\n"), SealedText)
        verified = open_sealed(text.sealed())
    except Malformed as error:
        raise P2pfleetError(
            f"{folder / MANIFEST} does not hold: {error}.",
            "The folder was changed or damaged; get the results again.",
        ) from error
    if not isinstance(verified, VerifiedManifest):
        raise P2pfleetError(f"{folder / MANIFEST} holds no manifest.", "Get the results again.")
    return verified


def read_trust(path: Path) -> VerifiedSnapshot:
    """A trust snapshot of a verifier's own choice: one sealed snapshot in JSON, or the first line
    of a ``snapshots.jsonl``. Raises :class:`P2pfleetError`."""
    try:
        with path.open("rb") as file:
            data = file.readline(MAX_LINE_BYTES + 1).removesuffix(b"\n")
        if len(data) > MAX_LINE_BYTES:
            raise OSError(errno.EFBIG, "it is too large")
    except OSError as error:
        raise P2pfleetError(
            f"The trust snapshot {path} cannot be read: {error.strerror or error}.",
            "Name a file that holds a signed trust snapshot as JSON.",
            ExitCode.USAGE,
        ) from error
    try:
        try:
            text = _strict(data, SnapshotLine).snapshot
        except Malformed:
            text = _strict(data, SealedText)
        verified = open_sealed(text.sealed())
        if not isinstance(verified, VerifiedSnapshot):
            raise Malformed("it is another kind of signed body")
    except Malformed as error:
        raise P2pfleetError(
            f"{path} is no signed trust snapshot: {error}.",
            "A line of a results folder's snapshots.jsonl is one.",
            ExitCode.USAGE,
        ) from error
    return verified


def check_files(folder: Path, manifest: VerifiedManifest, problems: Problems) -> NetworkTerms:
    """Hold the report against the other files, and the network's parameters against the manifest.

    Returns what the job's network asks of everybody who takes part in it.
    """
    unknown = NetworkTerms(manifest.manifest.network)
    try:
        report: Any = msgspec.json.decode(_bounded(folder / REPORT, MAX_REPORT_BYTES))
        hashes = dict(report["files"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError):
        problems.add(f"{REPORT} is missing or damaged")
        return unknown
    for name in HASHED:
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            problems.add(f"{name} is missing")
            continue
        if hashes.get(name) != actual:
            problems.add(f"{name} is not the file that {REPORT} was written for")
    try:
        parameters: NetworkParameters = msgspec.convert(
            report.get("network"), NetworkText
        ).parameters()
    except (msgspec.ValidationError, Malformed, AttributeError):
        problems.add(f"{REPORT} does not hold the parameters of the job's network")
        return unknown
    terms = network_terms(parameters)
    if terms.id != manifest.manifest.network:
        problems.add(f"the network in {REPORT} is not the one that the manifest names")
        return unknown
    if not fits(terms, manifest.manifest.publisher):
        problems.add("the publisher's key does not fit the network")
    return terms


def read_frames(
    folder: Path, manifest: VerifiedManifest, terms: NetworkTerms, problems: Problems
) -> dict[FrameHash, VerifiedFrame]:
    """The frames that hold by themselves, by hash: signed, of this job, by authors whose keys fit
    the network, and such as every node would take."""
    frames: dict[FrameHash, VerifiedFrame] = {}
    for number, line in lines(folder / FRAMES, FrameLine, problems):
        where = f"{FRAMES} line {number}"
        try:
            verified = open_sealed(line.frame.sealed())
        except Malformed as error:
            problems.add(f"{where}: {error}")
            continue
        if not isinstance(verified, VerifiedFrame) or verified.hash.hex() != line.hash:
            problems.add(f"{where}: not the frame that it says")
            continue
        if verified.hash in frames:
            problems.add(f"{where}: the frame is here twice")
            continue
        if verified.frame.job != manifest.job:
            problems.add(f"{where}: the frame belongs to another job")
            continue
        verdict = judge_frame(verified.frame, manifest.manifest, terms)
        if isinstance(verdict, Reject):
            problems.add(f"{where}: {verdict.reason}")
            continue
        frames[verified.hash] = verified
    return frames


def read_snapshots(folder: Path, problems: Problems) -> dict[Digest, VerifiedSnapshot]:
    """The trust snapshots whose signatures hold, by hash."""
    snapshots: dict[Digest, VerifiedSnapshot] = {}
    for number, line in lines(folder / SNAPSHOTS, SnapshotLine, problems):
        where = f"{SNAPSHOTS} line {number}"
        try:
            verified = open_sealed(line.snapshot.sealed())
        except Malformed as error:
            problems.add(f"{where}: {error}")
            continue
        if not isinstance(verified, VerifiedSnapshot) or verified.hash.hex() != line.hash:
            problems.add(f"{where}: not the trust snapshot that it says")
        elif verified.hash in snapshots:
            problems.add(f"{where}: the trust snapshot is here twice")
        else:
            snapshots[verified.hash] = verified
    return snapshots


def lines(path: Path, kind: type[T], problems: Problems) -> Iterator[tuple[int, T]]:
    """The lines of a file, each the one way to write a value of ``kind``, with their numbers."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    problems.add(f"{path.name} line {number}: cut off or too long")
                    return
                try:
                    yield number, _strict(line[:-1], kind)
                except Malformed as error:
                    problems.add(f"{path.name} line {number}: {error}")
    except OSError as error:
        problems.add(f"{path.name} cannot be read: {error.strerror or error}")


def _bounded(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises OSError, also if there are more than ``limit``."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, "it is too large")
    return data


def _strict(data: bytes, kind: type[T]) -> T:
    """The value whose one way of being written ``data`` is. Raises :class:`Malformed`."""
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)[:200]) from error
    if msgspec.json.encode(value) != data:
        raise Malformed("not the one way to write it")
    return value
