"""What the owner of a closed network signs, between the network file, invitations and the wire."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from nacl.signing import SigningKey

from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import PeerId, peer_text
from p2pfleet.core.model.network import (
    MEMBER_PAGES,
    MEMBERS_A_PAGE,
    NetworkFile,
    NetworkParameters,
    SignedPage,
)
from p2pfleet.core.model.swarm_key import SWARM_KEY_BYTES
from p2pfleet.core.rules.closed import INVITATION_LIFE_MS, invitation_fault, page_of
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import (
    INVITATION_USES_MAX,
    Admission,
    Invitation,
    MemberEntry,
    Members,
    Sealed,
)
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedAdmission, VerifiedInvitation, VerifiedMembers
from p2pfleet.runtime.signing import Signer, open_sealed

MAX_MEMBERS = 4096
ADMISSION_FILE = "admission"
MAX_INVITATION_CHARACTERS = 2**20
_PREFIX = "p2pfleet-invitation-1:"


# ---- the list of members ---------------------------------------------------------------------


def opened_pages(network: NetworkFile) -> list[VerifiedMembers]:
    """The file's list of members, verified, page by page.

    Raises :class:`P2pfleetError` if the network's owner did not sign it.
    """
    owner = network.parameters.owner
    found = []
    for page in network.pages:
        assert owner is not None
        try:
            entries = tuple(MemberEntry(*entry) for entry in page.entries)
            body = Members(network.id, owner, page.page, page.sequence, page.issued_ms, entries)
            verified = open_sealed(Sealed(encode(body), owner, page.signature))
        except (Malformed, ValueError) as error:
            raise P2pfleetError(
                f"Page {page.page} of the members in the file of the network "
                f"{network.parameters.name} is not signed by its owner, {peer_text(owner)}: "
                f"{error}.",
                "Ask whoever runs the network for its file, or take the [[members]] out of it.",
                ExitCode.DAMAGED,
            ) from error
        assert isinstance(verified, VerifiedMembers)
        found.append(verified)
    return found


def listed(network: NetworkFile) -> dict[PeerId, MemberEntry]:
    """Every key of the file's list. Raises as :func:`opened_pages`."""
    return {entry.peer: entry for page in opened_pages(network) for entry in page.members.entries}


def with_entries(
    network: NetworkFile, signer: Signer, changes: Sequence[MemberEntry], now_ms: int
) -> NetworkFile:
    """The file with these entries in its list, signed by ``signer``.

    Raises :class:`P2pfleetError` if that is not the owner, the network is not closed, the file's
    list is not signed by its owner, or there is no room.
    """
    check_owner(network, signer)
    pages = {page.members.page: page.members for page in opened_pages(network)}
    for number in sorted({page_of(change.peer) for change in changes}):
        known = pages.get(number)
        entries = {entry.peer: entry for entry in (() if known is None else known.entries)}
        entries |= {one.peer: one for one in changes if page_of(one.peer) == number}
        pages[number] = Members(
            network=network.id,
            owner=signer.peer,
            page=number,
            sequence=max(-1 if known is None else known.sequence, now_ms - 1) + 1,
            issued_ms=now_ms,
            entries=tuple(entries[peer] for peer in sorted(entries)),
        )
    _check_room(pages)
    return msgspec.structs.replace(
        network, pages=tuple(_signed(pages[number], signer) for number in sorted(pages))
    )


def merged_pages(known: NetworkFile, network: NetworkFile) -> NetworkFile:
    """``network`` with what ``known``, a file of the same network, has of a newer list."""
    pages = {page.page: page for page in known.pages}
    for page in network.pages:
        older = pages.get(page.page)
        if older is None or older.sequence < page.sequence:
            pages[page.page] = page
    return msgspec.structs.replace(network, pages=tuple(pages[one] for one in sorted(pages)))


def _check_room(pages: dict[int, Members]) -> None:
    total = sum(len(page.entries) for page in pages.values())
    crowded = any(
        len(page.entries) > MEMBERS_A_PAGE or len(encode(page)) > MAX_FRAME_BYTES
        for page in pages.values()
    )
    if total > MAX_MEMBERS or crowded:
        raise P2pfleetError(
            f"The list of members has no more room: {total:,} keys, removed ones included, of "
            f"{MAX_MEMBERS:,} at most ({MEMBERS_A_PAGE} of keys that begin alike).",
            "Give shorter names, or make a new network.",
            ExitCode.USAGE,
        )


def _signed(page: Members, signer: Signer) -> SignedPage:
    entries = tuple((one.peer, one.name, one.admitted) for one in page.entries)
    signature = signer.seal(page).signature
    return SignedPage(page.page, page.sequence, page.issued_ms, entries, signature)


def check_owner(network: NetworkFile, signer: Signer) -> None:
    """Raises :class:`P2pfleetError` unless ``signer`` owns ``network`` and that is closed."""
    parameters = network.parameters
    if not parameters.closed:
        raise P2pfleetError(
            f"The network {parameters.name} is open: anybody may take part.",
            "A network is closed when it is made: p2pfleet network create --closed FILE",
            ExitCode.USAGE,
        )
    if parameters.owner != signer.peer:
        assert parameters.owner is not None
        raise P2pfleetError(
            f"The network {parameters.name} belongs to {peer_text(parameters.owner)}; this key is "
            f"{peer_text(signer.peer)}.",
            "Run the command with the --data-dir of the network's owner.",
            ExitCode.USAGE,
        )


# ---- invitations -----------------------------------------------------------------------------


class _InvitationText(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an invitation's text holds: the network's file, the invitation, and its secret."""

    parameters: NetworkParameters
    bootstrap: Annotated[tuple[Annotated[str, Meta(max_length=200)], ...], Meta(max_length=256)]
    swarm_key: Annotated[bytes, Meta(min_length=SWARM_KEY_BYTES, max_length=SWARM_KEY_BYTES)] | None
    pages: Annotated[tuple[Sealed, ...], Meta(max_length=MEMBER_PAGES)]
    invitation: Sealed
    seed: Annotated[bytes, Meta(min_length=32, max_length=32)]


class OpenedInvitation(msgspec.Struct, frozen=True):
    """An invitation that its owner signed: to which network, and the secret that proves it."""

    network: NetworkFile
    invitation: Invitation
    sealed: Sealed
    seed: bytes


def write_invitation(
    network: NetworkFile,
    signer: Signer,
    seed: bytes,
    *,
    name: str,
    uses: int,
    life_ms: int,
    now_ms: int,
) -> tuple[Invitation, str]:
    """An invitation to ``network``, and its text; ``seed`` are 32 random bytes.

    Raises :class:`P2pfleetError` if ``signer`` does not own the network, or the terms are
    impossible.
    """
    check_owner(network, signer)
    if not 0 < life_ms <= INVITATION_LIFE_MS or not 1 <= uses <= INVITATION_USES_MAX:
        raise P2pfleetError(
            "An invitation holds for 30 days and 256 peers at most.",
            "Choose fewer --hours or --uses.",
            ExitCode.USAGE,
        )
    key = PeerId(bytes(SigningKey(seed).verify_key))
    body = Invitation(network.id, signer.peer, key, name, uses, now_ms, now_ms + life_ms)
    try:
        body = decode(encode(body), Invitation, MAX_FRAME_BYTES)
    except Malformed as error:
        raise P2pfleetError(
            f"{name!r:.60} is no name for a member.",
            "Use at most 40 characters, and no line breaks.",
            ExitCode.USAGE,
        ) from error
    text = _InvitationText(
        network.parameters,
        network.bootstrap,
        network.swarm_key,
        tuple(page.sealed for page in opened_pages(network)),
        signer.seal(body),
        seed,
    )
    return body, _PREFIX + base64.urlsafe_b64encode(encode(text)).decode().rstrip("=")


def read_invitation(text: str) -> OpenedInvitation:
    """What an invitation says, its signatures checked. Raises :class:`P2pfleetError`."""
    try:
        return _opened_invitation("".join(text.split()))
    except (Malformed, ValueError, binascii.Error) as error:
        raise P2pfleetError(
            f"This is no invitation: {error}.",
            "Copy it whole, from p2pfleet-invitation-1: to its last letter, or ask for another.",
            ExitCode.USAGE,
        ) from error


def _opened_invitation(text: str) -> OpenedInvitation:
    if len(text) > MAX_INVITATION_CHARACTERS or not text.startswith(_PREFIX):
        raise Malformed(f"it does not begin with {_PREFIX}")
    body = text.removeprefix(_PREFIX)
    data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    found: _InvitationText = decode(data, _InvitationText, MAX_INVITATION_CHARACTERS)
    network = NetworkFile(
        found.parameters, found.bootstrap, pages=_pages(found), swarm_key=found.swarm_key
    )
    verified = open_sealed(found.invitation)
    if not isinstance(verified, VerifiedInvitation):
        raise Malformed("it holds another kind of message")
    fault = invitation_fault(verified.invitation, network.terms)
    if fault:
        raise Malformed(fault)
    if bytes(SigningKey(found.seed).verify_key) != verified.invitation.key:
        raise Malformed("its secret is not the one that the owner signed")
    return OpenedInvitation(network, verified.invitation, found.invitation, found.seed)


def _pages(found: _InvitationText) -> tuple[SignedPage, ...]:
    pages = []
    for sealed in found.pages:
        verified = open_sealed(sealed)
        if not isinstance(verified, VerifiedMembers) or sealed.signer != found.parameters.owner:
            raise Malformed("its list of members is not by the owner of the network")
        body = verified.members
        entries = tuple((one.peer, one.name, one.admitted) for one in body.entries)
        pages.append(
            SignedPage(body.page, body.sequence, body.issued_ms, entries, sealed.signature)
        )
    return tuple(sorted(pages, key=lambda page: page.page))


def use_invitation(opened: OpenedInvitation, peer: PeerId) -> Sealed:
    """The word of the invitation's key that it is for ``peer``."""
    signer = Signer(opened.seed)
    return signer.seal(Admission(opened.network.id, signer.peer, peer, opened.sealed))


def read_admission(data: bytes) -> VerifiedAdmission:
    """An admission as it is kept in a data folder. Raises :class:`Malformed`."""
    verified = open_sealed(decode(data, Sealed, MAX_FRAME_BYTES))
    if not isinstance(verified, VerifiedAdmission):
        raise Malformed("it is no admission")
    return verified


def member_rows(entries: Iterable[MemberEntry]) -> list[dict[str, Any]]:
    """Entries as JSON has them."""
    return [
        {"peer": peer_text(one.peer), "name": one.name, "admitted": one.admitted} for one in entries
    ]
