"""Checks a results folder offline: every certificate is recomputed from the signed frames in it.

Needs nothing but the folder: no network, no clock, no store. Whose job it is, is another question:
anybody can make a whole folder with fresh keys, so the caller has to know the publisher.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p2pfleet.adapters.inputs import outputs_path, read_outputs_file
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import FrameHash, PeerId
from p2pfleet.core.rules.certificate import check_certificate
from p2pfleet.core.wire.messages import Certificate
from p2pfleet.core.wire.tensors import digest_of
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest
from p2pfleet.results import (
    CERTIFICATES,
    FRAMES,
    MANIFEST,
    REPORT,
    FrameLine,
    SealedText,
    UnitLine,
)
from p2pfleet.runtime.signing import open_sealed

T = TypeVar("T")
PROBLEMS_MAX = 100
MAX_LINE_BYTES = 256 * 1024
MAX_REPORT_BYTES = 256 * 2**20


class Verification(msgspec.Struct, frozen=True):
    """What a folder proves. It holds together if ``problems`` is empty."""

    job: str
    publisher: PeerId
    units: int
    settled: int
    certified: int
    failed: int
    open: int
    outputs: int
    voters: int
    problems: tuple[str, ...]


class _Problems:
    """Collects what does not hold; the first hundred are kept."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, text: str) -> None:
        if len(self.found) < PROBLEMS_MAX:
            self.found.append(text)


def verify_results(folder: Path) -> Verification:
    """Recompute every certificate in ``folder`` and the digest of every output.

    Raises :class:`P2pfleetError` if it is no results folder at all.
    """
    problems = _Problems()
    manifest = _read_manifest(folder)
    _check_files(folder, problems)
    frames = _read_frames(folder, problems)
    counts = {"settled": 0, "certified": 0, "contested": 0, "failed": 0}
    seen: set[int] = set()
    outputs: set[Path] = set()
    voters: set[PeerId] = set()
    for number, line in _lines(folder / CERTIFICATES, UnitLine, problems):
        where = f"{CERTIFICATES} line {number}"
        if line.unit in seen:
            problems.add(f"{where}: unit {line.unit} is listed twice")
            continue
        seen.add(line.unit)
        if line.state not in counts or not 0 <= line.unit < manifest.manifest.units:
            problems.add(f"{where}: the job has no such unit, or a unit no such state")
            continue
        counts[line.state] += 1
        if line.state in ("failed", "contested"):
            continue
        certificate = _certificate(line, manifest, where, problems)
        if certificate is None:
            continue
        why = check_certificate(manifest.manifest, manifest.job, certificate, frames)
        if why is not None:
            problems.add(f"unit {line.unit}: its certificate does not hold: {why}")
            continue
        voters.update(frames[vote.frame].author for vote in certificate.votes)
        if line.state == "settled":
            path = outputs_path(folder, line.unit)
            outputs.add(path)
            _check_output(path, certificate, problems)
    for path in sorted((folder / "outputs").glob("*")):
        if path not in outputs and not path.name.startswith("."):
            problems.add(f"{path.name}: an output without a certificate")
    return Verification(
        job=manifest.job.hex(),
        publisher=manifest.manifest.publisher,
        units=manifest.manifest.units,
        settled=counts["settled"],
        certified=counts["certified"] + counts["settled"],
        failed=counts["failed"],
        open=manifest.manifest.units - counts["settled"] - counts["certified"] - counts["failed"],
        outputs=len(outputs),
        voters=len(voters),
        problems=tuple(problems.found),
    )


def _read_manifest(folder: Path) -> VerifiedManifest:
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


def _bounded(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises OSError, also if there are more than ``limit``."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, "it is too large")
    return data


def _check_files(folder: Path, problems: _Problems) -> None:
    """The report names the hashes of the other files, so no byte of them changes unnoticed."""
    try:
        report: Any = msgspec.json.decode(_bounded(folder / REPORT, MAX_REPORT_BYTES))
        hashes = dict(report["files"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError):
        problems.add(f"{REPORT} is missing or damaged")
        return
    for name in (MANIFEST, CERTIFICATES, FRAMES):
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            problems.add(f"{name} is missing")
            continue
        if hashes.get(name) != actual:
            problems.add(f"{name} is not the file that {REPORT} was written for")


def _read_frames(folder: Path, problems: _Problems) -> dict[FrameHash, VerifiedFrame]:
    frames: dict[FrameHash, VerifiedFrame] = {}
    for number, line in _lines(folder / FRAMES, FrameLine, problems):
        try:
            verified = open_sealed(line.frame.sealed())
        except Malformed as error:
            problems.add(f"{FRAMES} line {number}: {error}")
            continue
        if not isinstance(verified, VerifiedFrame) or verified.hash.hex() != line.hash:
            problems.add(f"{FRAMES} line {number}: not the frame that it says")
            continue
        frames[verified.hash] = verified
    return frames


def _certificate(
    line: UnitLine, manifest: VerifiedManifest, where: str, problems: _Problems
) -> Certificate | None:
    try:
        certificate = line.certificate(manifest.job)
    except Malformed as error:
        problems.add(f"{where}: {error}")
        return None
    if certificate is None:
        problems.add(f"{where}: unit {line.unit} is {line.state} without a certificate")
    return certificate


def _check_output(path: Path, certificate: Certificate, problems: _Problems) -> None:
    try:
        bundle = read_outputs_file(path)
    except P2pfleetError as error:
        problems.add(error.message)
        return
    if digest_of(bundle) != certificate.digest:
        problems.add(f"{path.name}: not the output that unit {certificate.unit}'s votes are for")


def _lines(path: Path, kind: type[T], problems: _Problems) -> Iterator[tuple[int, T]]:
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


def _strict(data: bytes, kind: type[T]) -> T:
    """The value whose one way of being written ``data`` is. Raises :class:`Malformed`."""
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)[:200]) from error
    if msgspec.json.encode(value) != data:
        raise Malformed("not the one way to write it")
    return value
