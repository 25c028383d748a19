"""What a network's owner asks for, between the network file and the wire."""

from __future__ import annotations

import msgspec

from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import peer_text
from p2pfleet.core.model.network import NetworkFile, SignedRequirement
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Requirement, Sealed
from p2pfleet.core.wire.verified import VerifiedRequirement
from p2pfleet.runtime.signing import Signer, open_sealed


def opened_requirement(network: NetworkFile) -> VerifiedRequirement:
    """The file's requirement, verified. Raises :class:`P2pfleetError` if its owner did not sign it.

    The file must have one, and an owner.
    """
    asked, owner = network.requirement, network.parameters.owner
    assert asked is not None
    assert owner is not None
    body = Requirement(network.id, owner, asked.sequence, asked.issued_ms, asked.onnxruntime)
    try:
        verified = open_sealed(Sealed(encode(body), owner, asked.signature))
    except Malformed as error:
        raise P2pfleetError(
            f"The requirement in the file of the network {network.parameters.name} is not signed "
            f"by its owner, {peer_text(owner)}: {error}.",
            "Ask whoever runs the network for its file, or take the [requirement] out of it.",
            ExitCode.DAMAGED,
        ) from error
    assert isinstance(verified, VerifiedRequirement)
    return verified


def with_requirement(
    network: NetworkFile, signer: Signer, onnxruntime: str, now_ms: int
) -> NetworkFile:
    """The file with a newer requirement, signed by ``signer``.

    Raises :class:`P2pfleetError` if that is not the network's owner, the version is none, or the
    file's requirement is not signed by its owner.
    """
    owner = network.parameters.owner
    if owner != signer.peer:
        named = "has no owner" if owner is None else f"belongs to {peer_text(owner)}"
        raise P2pfleetError(
            f"The network {network.parameters.name} {named}; this key is {peer_text(signer.peer)}.",
            "Run the command with the --data-dir of the owner's node; a network gets its owner "
            "when it is made (p2pfleet network create --owned).",
            ExitCode.USAGE,
        )
    before = -1
    if network.requirement is not None:
        # A sequence that somebody else put there could use up all that are left.
        before = opened_requirement(network).requirement.sequence
    body = Requirement(network.id, signer.peer, max(before + 1, now_ms), now_ms, onnxruntime)
    try:
        body = msgspec.msgpack.decode(encode(body), type=Requirement)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise P2pfleetError(
            f"{onnxruntime!r:.60} is no version to ask for.",
            "Write it like 1.32.0: numbers with points between them.",
            ExitCode.USAGE,
        ) from error
    signature = signer.seal(body).signature
    return msgspec.structs.replace(
        network,
        requirement=SignedRequirement(onnxruntime, body.sequence, body.issued_ms, signature),
    )
