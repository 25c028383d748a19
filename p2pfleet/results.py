"""The results folder: what a job gave, and what proves it (``protocol/results.md``).

manifest.json        the signed manifest
certificates.jsonl   one line a decided unit
frames.jsonl         the signed frames that the certificates point at, each once
outputs/000042.npz   the output of unit 42
report.json          for people and scripts; written last, with the hashes of the files above
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import Certificate, Sealed, VoteRef, frame_hash
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.ports import Packs, Store, StoredJob

MANIFEST = "manifest.json"
CERTIFICATES = "certificates.jsonl"
FRAMES = "frames.jsonl"
REPORT = "report.json"

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


class UnitLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of certificates.jsonl. ``state``: certified, settled, contested or failed.

    A certificate stands in ``attempt``, ``digest`` (hexadecimal) and ``votes`` ((frame hash,
    index) pairs); a failed unit has a ``reason``.
    """

    unit: int
    state: str
    attempt: int | None = None
    digest: str | None = None
    votes: tuple[tuple[str, int], ...] | None = None
    reason: str | None = None

    def certificate(self, job: JobId) -> Certificate | None:
        """The certificate that this line carries, if any. Raises :class:`Malformed`."""
        if self.digest is None or self.votes is None or self.attempt is None:
            return None
        votes = tuple(VoteRef(FrameHash(_from_hex(frame)), index) for frame, index in self.votes)
        digest = Digest(_from_hex(self.digest))
        # From a file as from the network: every bound is checked again.
        try:
            raw = encode(Certificate(job, self.unit, self.attempt, digest, votes))
        except OverflowError as error:
            raise Malformed("a number in it is too large") from error
        found: Certificate = decode(raw, Certificate, MAX_FRAME_BYTES)
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


def write_results(
    folder: Path,
    *,
    stored: StoredJob,
    names: tuple[str, ...],
    view: Mapping[str, Any],
    store: Store,
    packs: Packs,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write everything that is decided so far into ``folder``; returns the report.

    May be called again later: files are replaced one by one, each atomically. Raises
    :class:`P2pfleetError` when the folder cannot be written or an output is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise P2pfleetError(
            f"The folder {folder} cannot be made: {error.strerror or error}.",
            "Choose another --output.",
        ) from error
    lines: list[UnitLine] = []
    wanted: set[FrameHash] = set()
    rows = store.units(stored.job)
    for number, (unit, state, detail) in enumerate(rows):
        if state == "failed":
            lines.append(UnitLine(unit, state, reason=detail.decode(errors="replace")))
        elif detail:
            certificate: Certificate = decode(detail, Certificate, MAX_FRAME_BYTES)
            if state == "settled":
                data = packs.read(cid_from_sha256(certificate.digest))
                write_outputs(folder, unit, data)
            lines.append(_unit_line(unit, state, certificate))
            wanted.update(vote.frame for vote in certificate.votes)
        if progress is not None:
            progress(number + 1, len(rows))
    frames = [
        FrameLine(sealed.hash.hex(), SealedText.of(sealed))
        for sealed in store.job_frames(stored.job)
        if frame_hash(sealed) in wanted
    ]
    texts = {
        MANIFEST: msgspec.json.encode(SealedText.of(stored.manifest)) + b"\n",
        FRAMES: b"".join(msgspec.json.encode(line) + b"\n" for line in frames),
        CERTIFICATES: b"".join(msgspec.json.encode(line) + b"\n" for line in lines),
    }
    report = {
        "job": dict(view),
        "unit_names": list(names),
        "files": {name: sha256(text).hex() for name, text in texts.items()},
    }
    for name, text in texts.items():
        replace_file(folder / name, text)
    replace_file(folder / REPORT, json.dumps(report, indent=1).encode() + b"\n")
    return report


def _unit_line(unit: int, state: str, certificate: Certificate) -> UnitLine:
    return UnitLine(
        unit=unit,
        state=state,
        attempt=certificate.attempt,
        digest=certificate.digest.hex(),
        votes=tuple((vote.frame.hex(), vote.index) for vote in certificate.votes),
    )
