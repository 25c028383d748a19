"""Names of things: peers, networks, jobs, contents. All are bytes inside, text for people.

``PeerId`` is the 32-byte Ed25519 public key; its text is the libp2p peer id (base58 of the
identity multihash over the protobuf-framed key), so that it is the same string that every other
libp2p program prints. A ``Cid`` is a binary CIDv1 (raw codec, sha2-256); its text is multibase
base32.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, NewType

import base58
from msgspec import Meta

from p2pfleet.core.errors import Malformed

PeerId = NewType("PeerId", bytes)
NetworkId = NewType("NetworkId", bytes)
JobId = NewType("JobId", bytes)
Digest = NewType("Digest", bytes)
FrameHash = NewType("FrameHash", bytes)
Cid = NewType("Cid", bytes)
Millis = NewType("Millis", int)

_HASH = Meta(min_length=32, max_length=32)
_CID = Meta(min_length=36, max_length=36)
PeerIdField = Annotated[PeerId, _HASH]
NetworkIdField = Annotated[NetworkId, _HASH]
JobIdField = Annotated[JobId, _HASH]
DigestField = Annotated[Digest, _HASH]
FrameHashField = Annotated[FrameHash, _HASH]
CidField = Annotated[Cid, _CID]

_CID_PREFIX = b"\x01\x55\x12\x20"
_PEER_PREFIX = b"\x00\x24\x08\x01\x12\x20"


def sha256(data: bytes) -> bytes:
    """SHA-256 of ``data``, 32 bytes."""
    return hashlib.sha256(data).digest()


def cid_of(data: bytes) -> Cid:
    """The CIDv1 (raw, sha2-256) of ``data``."""
    return cid_from_sha256(sha256(data))


def cid_from_sha256(digest: bytes) -> Cid:
    """The CIDv1 of content whose SHA-256 is ``digest`` (32 bytes)."""
    assert len(digest) == 32
    return Cid(_CID_PREFIX + digest)


def cid_sha256(cid: Cid) -> bytes:
    """The SHA-256 inside a CID. Raises :class:`Malformed` if it is of another kind."""
    if len(cid) != 36 or not cid.startswith(_CID_PREFIX):
        raise Malformed("not a CIDv1 with the raw codec and sha2-256")
    return bytes(cid[4:])


def cid_text(cid: Cid) -> str:
    """Multibase base32 (lower case, no padding), as other tools print a CID."""
    return "b" + base64.b32encode(cid).decode("ascii").lower().rstrip("=")


def parse_cid(text: str) -> Cid:
    """The CID written as ``text``. Raises :class:`Malformed`."""
    if not text.startswith("b") or len(text) > 80:
        raise Malformed(f"not a base32 CID: {text[:80]!r}")
    body = text[1:].upper()
    try:
        cid = Cid(base64.b32decode(body + "=" * (-len(body) % 8)))
    except ValueError as error:
        raise Malformed(f"not a base32 CID: {text[:80]!r}") from error
    cid_sha256(cid)
    if cid_text(cid) != text:
        raise Malformed(f"not the one way to write a CID: {text!r}")
    return cid


def peer_text(peer: PeerId) -> str:
    """The libp2p peer id of a public key: ``12D3Koo...``."""
    return str(base58.b58encode(_PEER_PREFIX + peer), "ascii")


def parse_peer(text: str) -> PeerId:
    """The public key behind a libp2p peer id. Raises :class:`Malformed`."""
    if len(text) > 80:
        raise Malformed("not a peer id: too long")
    try:
        raw = base58.b58decode(text)
    except ValueError as error:
        raise Malformed(f"not a peer id: {text!r}") from error
    if len(raw) != 38 or not raw.startswith(_PEER_PREFIX):
        raise Malformed(f"not an Ed25519 peer id: {text!r}")
    peer = PeerId(raw[6:])
    if peer_text(peer) != text:
        raise Malformed(f"not the one way to write a peer id: {text!r}")
    return peer


def short_peer(peer: PeerId) -> str:
    """The last eight characters: enough to tell peers apart on a screen."""
    return peer_text(peer)[-8:]


def parse_job(text: str) -> JobId:
    """A job id from 64 hexadecimal digits. Raises :class:`Malformed`."""
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise Malformed(f"not a job id (64 hexadecimal digits): {text[:80]!r}") from error
    if len(raw) != 32 or raw.hex() != text:
        raise Malformed(f"not a job id (64 hexadecimal digits): {text[:80]!r}")
    return JobId(raw)
