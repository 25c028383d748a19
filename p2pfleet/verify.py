"""Checks a results folder offline: every certificate is recomputed from what lies in it.

Needs nothing but the folder: no network, no clock, no store. Whose job it is, is another question:
anybody can make a whole folder with fresh keys, so the caller has to know the publisher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from p2pfleet.adapters.inputs import outputs_path, read_outputs_file
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import Digest, FrameHash, PeerId
from p2pfleet.core.model.job import Exact, FixedQuorum
from p2pfleet.core.rules.certificate import check_certificate, passed
from p2pfleet.core.wire.messages import (
    Certificate,
    Endorse,
    Manifest,
    OpenRingers,
    Ringer,
    Snapshot,
)
from p2pfleet.core.wire.tensors import digest_of
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest, VerifiedSnapshot
from p2pfleet.reading_results import (
    Problems,
    check_files,
    lines,
    read_frames,
    read_manifest,
    read_snapshots,
)
from p2pfleet.results import CERTIFICATES, UnitLine


class UsedSnapshot(msgspec.Struct, frozen=True):
    """A trust snapshot that certificates name: whose it is, how many peers it knows, and how many
    of the units it weighs the votes of."""

    hash: str
    signer: PeerId
    number: int
    peers: int
    units: int


class Verification(msgspec.Struct, frozen=True):
    """What a folder proves. It holds together if ``problems`` is empty.

    ``certified`` counts settled units too. Of them, ``audited`` rest on the publisher's own word,
    ``single`` on the vote of one peer, and ``newcomers`` on votes of peers without any record;
    ``endorsed`` have votes by comparison. ``rule`` says in words what was asked for; ``weighs``
    whether records weigh votes by it. ``ringers`` is ``None`` where the job has none, else how many
    were opened (0: the job had not ended).
    """

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
    rule: str = ""
    audited: int = 0
    single: int = 0
    newcomers: int = 0
    endorsed: int = 0
    ringers: int | None = None
    snapshots: tuple[UsedSnapshot, ...] = ()
    weighed_by: PeerId | None = None
    weighs: bool = False


class _Found:
    """What was seen in the certificates that hold."""

    def __init__(self) -> None:
        self.counts = {"settled": 0, "certified": 0, "contested": 0, "failed": 0}
        self.outputs: set[Path] = set()
        self.voters: set[PeerId] = set()
        self.audited = 0
        self.single = 0
        self.newcomers = 0
        self.endorsed = 0
        self.answers: dict[int, Certificate] = {}
        self.named: dict[Digest, int] = {}


def verify_results(folder: Path, trust: VerifiedSnapshot | None = None) -> Verification:
    """Recompute every certificate in ``folder``, open every commitment, check every output.

    With ``trust`` its records weigh the votes as well: a certificate then has to hold twice, by the
    publisher's records and by these. Raises :class:`P2pfleetError` if the folder is no results
    folder at all, or ``trust`` is about another network.
    """
    problems = Problems()
    manifest = read_manifest(folder)
    if trust is not None and trust.snapshot.network != manifest.manifest.network:
        raise P2pfleetError(
            "The trust snapshot is about the peers of another network than this job's.",
            "Name one of the same network, or leave --trust out.",
            ExitCode.USAGE,
        )
    terms = check_files(folder, manifest, problems)
    frames = read_frames(folder, manifest, terms, problems)
    snapshots = read_snapshots(folder, problems)
    found = _Found()
    for line in _decided(folder, manifest.manifest, found, problems):
        _check_unit(folder, line, manifest, frames, snapshots, trust, found, problems)
    for path in sorted((folder / "outputs").glob("*")):
        if path not in found.outputs and not path.name.startswith("."):
            problems.add(f"{path.name}: an output without a certificate")
    body = manifest.manifest
    counts = found.counts
    return Verification(
        job=manifest.job.hex(),
        publisher=body.publisher,
        units=body.units,
        settled=counts["settled"],
        certified=counts["certified"] + counts["settled"],
        failed=counts["failed"],
        open=body.units - counts["settled"] - counts["certified"] - counts["failed"],
        outputs=len(found.outputs),
        voters=len(found.voters),
        ringers=_check_ringers(body, frames, found.answers, problems),
        problems=tuple(problems.found),
        rule=rule_in_words(body),
        audited=found.audited,
        single=found.single,
        newcomers=found.newcomers,
        endorsed=found.endorsed,
        snapshots=tuple(_used(snapshots[name], units) for name, units in found.named.items()),
        weighed_by=None if trust is None else trust.snapshot.publisher,
        weighs=not isinstance(body.stop, FixedQuorum),
    )


def rule_in_words(manifest: Manifest) -> str:
    """What the job's stop rule asks for, for people."""
    compared = (
        "equal byte for byte"
        if isinstance(manifest.comparison, Exact)
        else "within the job's tolerance of one of them"
    )
    stop = manifest.stop
    if isinstance(stop, FixedQuorum):
        voters = "1 volunteer" if stop.quorum == 1 else f"{stop.quorum} volunteers"
        return f"{voters} with one answer, {compared}"
    theta = 100 * (1 - stop.error_ppb / 1e9)
    return (
        f"{theta:.10g} % sure of an answer, if {stop.faulty_ppm / 1e4:.10g} % of the volunteers "
        f"are faulty; answers {compared}"
    )


def _decided(
    folder: Path, manifest: Manifest, found: _Found, problems: Problems
) -> Iterator[UnitLine]:
    """The lines of units that are certified or settled; the others are counted."""
    seen: set[int] = set()
    for number, line in lines(folder / CERTIFICATES, UnitLine, problems):
        where = f"{CERTIFICATES} line {number}"
        if line.unit in seen:
            problems.add(f"{where}: unit {line.unit} is listed twice")
            continue
        seen.add(line.unit)
        if line.state not in found.counts or not 0 <= line.unit < manifest.units:
            problems.add(f"{where}: the job has no such unit, or a unit no such state")
            continue
        found.counts[line.state] += 1
        if line.state in ("certified", "settled"):
            yield line


def _check_unit(
    folder: Path,
    line: UnitLine,
    manifest: VerifiedManifest,
    frames: Mapping[FrameHash, VerifiedFrame],
    snapshots: Mapping[Digest, VerifiedSnapshot],
    trust: VerifiedSnapshot | None,
    found: _Found,
    problems: Problems,
) -> None:
    where = f"unit {line.unit}"
    try:
        certificate = line.certificate(manifest.job)
    except Malformed as error:
        problems.add(f"{where}: {error}")
        return
    if certificate is None:
        problems.add(f"{where} is {line.state} without a certificate")
        return
    output = _output(folder, line, certificate, found, problems)
    body = manifest.manifest
    why = check_certificate(body, manifest.job, certificate, frames, snapshots, output)
    if why is not None:
        problems.add(f"{where}: its certificate does not hold: {why}")
        return
    used = None if certificate.snapshot is None else snapshots[certificate.snapshot].snapshot
    if trust is not None:
        used = trust.snapshot
        why = check_certificate(body, manifest.job, certificate, frames, {}, output, used)
        if why is not None:
            problems.add(f"{where}: its certificate does not hold by your trust snapshot: {why}")
            return
    if certificate.snapshot is not None:
        found.named[certificate.snapshot] = found.named.get(certificate.snapshot, 0) + 1
    found.answers[line.unit] = certificate
    _count(certificate, used, frames, found)


def _count(
    certificate: Certificate,
    used: Snapshot | None,
    frames: Mapping[FrameHash, VerifiedFrame],
    found: _Found,
) -> None:
    voters = [frames[vote.frame].author for vote in certificate.votes]
    found.voters.update(voters)
    if certificate.audit is not None:
        found.audited += 1
        return
    found.single += len(voters) == 1
    found.newcomers += not any(passed(used, voter) for voter in voters)
    found.endorsed += any(
        isinstance(frames[vote.frame].frame.entries[vote.index], Endorse)
        for vote in certificate.votes
    )


def _output(
    folder: Path, line: UnitLine, certificate: Certificate, found: _Found, problems: Problems
) -> bytes | None:
    """The bytes that a settled unit's certificate is for, if they are there and right."""
    if line.state != "settled":
        return None
    path = outputs_path(folder, line.unit)
    found.outputs.add(path)
    try:
        bundle = read_outputs_file(path)
    except P2pfleetError as error:
        problems.add(error.message)
        return None
    if digest_of(bundle) != certificate.digest:
        problems.add(f"{path.name}: not the output that unit {line.unit}'s votes are for")
        return None
    return bundle


def _check_ringers(
    manifest: Manifest,
    frames: Mapping[FrameHash, VerifiedFrame],
    answers: Mapping[int, Certificate],
    problems: Problems,
) -> int | None:
    """How many ringers were opened, after holding them against the certificates.

    That they are those of the manifest was checked with the frame that opens them.
    """
    if manifest.trust.ringers is None:
        return None
    opened: dict[int, Ringer] = {}
    for frame in frames.values():
        for entry in frame.frame.entries:
            if isinstance(entry, OpenRingers):
                opened = {ringer.unit: ringer for ringer in entry.ringers}
    for unit, ringer in sorted(opened.items()):
        made = answers.get(unit)
        if made is None or made.digest == ringer.digest:
            continue
        # Within a tolerance another's bytes may stand for the publisher's, on its own word.
        if isinstance(manifest.comparison, Exact) or made.audit is None:
            problems.add(f"unit {unit}: a ringer, and its certificate is for another answer")
    return len(opened)


def _used(snapshot: VerifiedSnapshot, units: int) -> UsedSnapshot:
    body = snapshot.snapshot
    return UsedSnapshot(snapshot.hash.hex(), body.publisher, body.number, len(body.records), units)
