"""The results folder: what a job gave, and what proves it (``protocol/results.md``).

manifest.json        the signed manifest
snapshots.jsonl      the signed trust snapshots that certificates name, each once
frames.jsonl         the signed frames that certificates rest on, each once
certificates.jsonl   one line a decided unit
outputs/000042.npz   the output of unit 42
report.json          for people and scripts; written last, with the hashes of the files above
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from p2pfleet.adapters.inputs import write_outputs
from p2pfleet.adapters.store.durable_file import replace_file
from p2pfleet.core.errors import Malformed, P2pfleetError
from p2pfleet.core.model.ids import (
    Digest,
    FrameHash,
    JobId,
    cid_from_sha256,
    parse_peer,
    peer_text,
    sha256,
)
from p2pfleet.core.model.network import NetworkParameters
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import (
    Certificate,
    Endorse,
    Entry,
    Frame,
    OpenRingers,
    Reveal,
    Sealed,
    VoteRef,
    frame_hash,
)
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.ports import Packs, Store, StoredJob

MANIFEST = "manifest.json"
SNAPSHOTS = "snapshots.jsonl"
FRAMES = "frames.jsonl"
CERTIFICATES = "certificates.jsonl"
REPORT = "report.json"
HASHED = (MANIFEST, SNAPSHOTS, FRAMES, CERTIFICATES)
"""The files whose hashes stand in the report."""

Progress = Callable[[int, int], None]


class SealedText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sealed body in JSON: base64 of body and signature, the signer's peer id."""

    body: str
    signer: str
    signature: str

    @classmethod
    def of(cls, sealed: Sealed) -> SealedText:
        return cls(
            base64.b64encode(sealed.body).decode(),
            peer_text(sealed.signer),
            base64.b64encode(sealed.signature).decode(),
        )

    def sealed(self) -> Sealed:
        """Back again. Raises :class:`Malformed`."""
        try:
            body = base64.b64decode(self.body, validate=True)
            signature = base64.b64decode(self.signature, validate=True)
        except ValueError as error:
            raise Malformed("not base64") from error
        sealed = Sealed(body, parse_peer(self.signer), signature)
        if SealedText.of(sealed) != self:
            raise Malformed("not the one way to write it")
        return sealed


class FrameLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of frames.jsonl: a sealed frame and its hash (hexadecimal)."""

    hash: str
    frame: SealedText

    @classmethod
    def of(cls, sealed: Sealed) -> FrameLine:
        return cls(sealed.hash.hex(), SealedText.of(sealed))


class SnapshotLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of snapshots.jsonl: a sealed trust snapshot and its hash (hexadecimal)."""

    hash: str
    snapshot: SealedText

    @classmethod
    def of(cls, sealed: Sealed) -> SnapshotLine:
        return cls(sealed.hash.hex(), SealedText.of(sealed))


class Pointer(NamedTuple):
    """A :class:`VoteRef` in JSON: ``[frame hash (hexadecimal), index, item]``."""

    frame: str
    entry: int
    item: int

    @classmethod
    def of(cls, ref: VoteRef) -> Pointer:
        return cls(ref.frame.hex(), ref.index, ref.item)

    def ref(self) -> VoteRef:
        """Back again, bounds not checked yet. Raises :class:`Malformed`."""
        return VoteRef(FrameHash(_from_hex(self.frame)), self.entry, self.item)


class UnitLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of certificates.jsonl. ``state``: certified, settled, contested or failed.

    A certificate stands in ``digest`` (hexadecimal), ``snapshot`` (likewise, where there is one),
    ``votes``, ``against`` and ``audit``; a failed unit has a ``reason``.
    """

    unit: int
    state: str
    digest: str | None = None
    snapshot: str | None = None
    votes: tuple[Pointer, ...] | None = None
    against: tuple[Pointer, ...] = ()
    audit: Pointer | None = None
    reason: str | None = None

    @classmethod
    def of(cls, state: str, certificate: Certificate) -> UnitLine:
        return cls(
            unit=certificate.unit,
            state=state,
            digest=certificate.digest.hex(),
            snapshot=None if certificate.snapshot is None else certificate.snapshot.hex(),
            votes=tuple(map(Pointer.of, certificate.votes)),
            against=tuple(map(Pointer.of, certificate.against)),
            audit=None if certificate.audit is None else Pointer.of(certificate.audit),
        )

    def certificate(self, job: JobId) -> Certificate | None:
        """The certificate that this line carries, if any. Raises :class:`Malformed`."""
        if self.digest is None or self.votes is None:
            return None
        made = Certificate(
            job,
            self.unit,
            Digest(_from_hex(self.digest)),
            None if self.snapshot is None else Digest(_from_hex(self.snapshot)),
            tuple(vote.ref() for vote in self.votes),
            tuple(vote.ref() for vote in self.against),
            None if self.audit is None else self.audit.ref(),
        )
        # From a file as from the network: every bound is checked again.
        try:
            raw = encode(made)
        except OverflowError as error:
            raise Malformed("a number in it is too large") from error
        found: Certificate = decode(raw, Certificate, MAX_FRAME_BYTES)
        return found


class NetworkText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The normative parameters of a network in ``report.json``; the owner as a peer id."""

    name: str
    testnet: bool
    owner: str | None
    puzzle_bits: int
    votes_a_subnet: int

    @classmethod
    def of(cls, network: NetworkParameters) -> NetworkText:
        owner = None if network.owner is None else peer_text(network.owner)
        return cls(
            network.name, network.testnet, owner, network.puzzle_bits, network.votes_a_subnet
        )

    def parameters(self) -> NetworkParameters:
        """Back again. Raises :class:`Malformed`."""
        owner = None if self.owner is None else parse_peer(self.owner)
        made = NetworkParameters(
            self.name, self.testnet, owner, self.puzzle_bits, self.votes_a_subnet
        )
        try:
            raw = encode(made)
        except OverflowError as error:
            raise Malformed("a number in it is too large") from error
        found: NetworkParameters = decode(raw, NetworkParameters, MAX_FRAME_BYTES)
        return found


def _from_hex(text: str) -> bytes:
    """What lower-case hexadecimal digits stand for. Raises :class:`Malformed`."""
    try:
        value = bytes.fromhex(text)
    except ValueError as error:
        raise Malformed("not hexadecimal") from error
    if value.hex() != text:
        raise Malformed("not the one way to write it")
    return value


# ---- writing ---------------------------------------------------------------------------------


def write_results(
    folder: Path,
    *,
    stored: StoredJob,
    names: tuple[str, ...],
    view: Mapping[str, Any],
    network: NetworkParameters,
    store: Store,
    packs: Packs,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write everything that is decided so far into ``folder``; returns the report.

    ``network`` are the parameters of the job's network, which a verifier needs for the puzzle. May
    be called again later: files are replaced one by one, each atomically. Raises
    :class:`P2pfleetError` when the folder cannot be written or an output is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise P2pfleetError(
            f"The folder {folder} cannot be made: {error.strerror or error}.",
            "Choose another --output.",
        ) from error
    # Frames after the ledger: a certificate is never saved before the frames that it rests on.
    rows = store.units(stored.job)
    frames = {frame_hash(sealed): sealed for sealed in store.job_frames(stored.job)}
    lines: list[UnitLine] = []
    certificates: list[Certificate] = []
    for number, (unit, state, detail) in enumerate(rows):
        if state == "failed":
            lines.append(UnitLine(unit, state, reason=detail.decode(errors="replace")))
        elif detail:
            certificate: Certificate = decode(detail, Certificate, MAX_FRAME_BYTES)
            if state == "settled":
                data = packs.read(cid_from_sha256(certificate.digest))
                write_outputs(folder, unit, data)
            certificates.append(certificate)
            lines.append(UnitLine.of(state, certificate))
        if progress is not None:
            progress(number + 1, len(rows))
    wanted = _frames_behind(certificates, frames)
    wanted.update(_opened_ringers(frames, stored.manifest))
    named = {certificate.snapshot for certificate in certificates}
    snapshots = {one.hash: one for one in store.snapshots(stored.job) if one.hash in named}
    texts = {
        MANIFEST: msgspec.json.encode(SealedText.of(stored.manifest)) + b"\n",
        SNAPSHOTS: _json_lines(map(SnapshotLine.of, snapshots.values())),
        FRAMES: _json_lines(FrameLine.of(frames[name]) for name in frames if name in wanted),
        CERTIFICATES: _json_lines(lines),
    }
    report = {
        "job": dict(view),
        "network": msgspec.to_builtins(NetworkText.of(network)),
        "unit_names": list(names),
        "files": {name: sha256(text).hex() for name, text in texts.items()},
    }
    for name, text in texts.items():
        replace_file(folder / name, text)
    replace_file(folder / REPORT, json.dumps(report, indent=1).encode() + b"\n")
    return report


def _json_lines(values: Iterable[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)


def _frames_behind(
    certificates: Iterable[Certificate], frames: Mapping[FrameHash, Sealed]
) -> set[FrameHash]:
    """The frames that a verifier of these certificates needs: those with votes, endorsements and
    the publisher's words, and through them those with reveals and commitments."""
    bodies: dict[FrameHash, Frame] = {}
    wanted: set[FrameHash] = set()

    def at(ref: VoteRef) -> Entry | None:
        wanted.add(ref.frame)
        if ref.frame not in frames:
            return None
        body = bodies.get(ref.frame)
        if body is None:
            body = bodies[ref.frame] = decode(frames[ref.frame].body, Frame, MAX_FRAME_BYTES)
        return body.entries[ref.index] if ref.index < len(body.entries) else None

    for certificate in certificates:
        for ref in (*certificate.votes, *certificate.against):
            entry = at(ref)
            if isinstance(entry, Endorse):
                entry = at(entry.own)
            if isinstance(entry, Reveal):
                wanted.add(entry.commit)
        if certificate.audit is not None:
            wanted.add(certificate.audit.frame)
    return wanted


def _opened_ringers(frames: Mapping[FrameHash, Sealed], manifest: Sealed) -> Iterator[FrameHash]:
    """The publisher's frames that open the job's ringers."""
    for name, sealed in frames.items():
        if sealed.signer == manifest.signer:
            body: Frame = decode(sealed.body, Frame, MAX_FRAME_BYTES)
            if any(isinstance(entry, OpenRingers) for entry in body.entries):
                yield name
