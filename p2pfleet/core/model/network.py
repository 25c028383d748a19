"""A network: its normative parameters, which make its identity, and how to reach it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pfleet.core.model.capability import Version
from p2pfleet.core.model.ids import NetworkId, PeerId, PeerIdField, sha256

MAX_PUZZLE_BITS = 40
MAX_VOTES_A_SUBNET = 64
DEFAULT_VOTES_A_SUBNET = 2
# Clocks of honest nodes differ by so much; more is told, and ignored.
CLOCK_SKEW_MS = 2 * 60 * 1000
MEMBER_PAGES = 16
MEMBERS_A_PAGE = 512


class NetworkParameters(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag="p2pfleet/1/network",
):
    """The normative part of a network file: whoever differs in one of these is on another network.

    ``testnet`` marks networks for trying things: only there may nodes be told to misbehave.
    ``owner``, if there is one, is the key that may sign requirements of the network.
    ``puzzle_bits`` is how much work has to be in the key of everybody who takes part
    (:mod:`p2pfleet.core.model.puzzle`); a bit more doubles it, 0 asks for none.
    ``votes_a_subnet`` is how many claims on one unit a node accepts from one /24 (IPv4) or /48
    (IPv6), 0 for any number. ``closed``: only those take part whom the owner, which a closed
    network has to have, listed or invited (:mod:`p2pfleet.core.rules.closed`).
    """

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9.-]*\Z")]
    testnet: bool = False
    owner: PeerIdField | None = None
    puzzle_bits: Annotated[int, Meta(ge=0, le=MAX_PUZZLE_BITS)] = 0
    votes_a_subnet: Annotated[int, Meta(ge=0, le=MAX_VOTES_A_SUBNET)] = 0
    closed: bool = False

    def __post_init__(self) -> None:
        if self.closed and self.owner is None:
            raise ValueError("a closed network must have an owner")


class NetworkTerms(msgspec.Struct, frozen=True):
    """What makes a peer one of a network: the network's id, and the work its key has to show; how
    many claims on a unit count from one subnet; whether it is closed, and to whom it belongs."""

    id: NetworkId
    puzzle_bits: int = 0
    votes_a_subnet: int = 0
    closed: bool = False
    owner: PeerId | None = None


class SignedRequirement(msgspec.Struct, frozen=True):
    """What the network's owner asks for, as the file has it; the signature is not checked yet."""

    onnxruntime: Version
    sequence: int
    issued_ms: int
    signature: bytes


class SignedPage(msgspec.Struct, frozen=True):
    """One page of a closed network's list of members, as the file has it: (peer, name, admitted)
    in ascending order of peers; the signature is not checked yet."""

    page: int
    sequence: int
    issued_ms: int
    entries: tuple[tuple[PeerId, str, bool], ...]
    signature: bytes


class NetworkFile(msgspec.Struct, frozen=True):
    """A whole network file: the normative parameters, addresses to start from, and what may change
    without making it another network: what the owner asks for, its list of members, and the key
    that connections are encrypted with (:mod:`p2pfleet.core.model.swarm_key`)."""

    parameters: NetworkParameters
    bootstrap: tuple[str, ...] = ()
    requirement: SignedRequirement | None = None
    pages: tuple[SignedPage, ...] = ()
    swarm_key: bytes | None = None

    @property
    def id(self) -> NetworkId:
        return network_id(self.parameters)

    @property
    def terms(self) -> NetworkTerms:
        return network_terms(self.parameters)


def network_id(parameters: NetworkParameters) -> NetworkId:
    """The hash of the canonical encoding of the normative part."""
    return NetworkId(sha256(msgspec.msgpack.encode(parameters)))


def network_terms(parameters: NetworkParameters) -> NetworkTerms:
    """What whoever takes part in the network of these parameters has to keep."""
    return NetworkTerms(
        network_id(parameters),
        parameters.puzzle_bits,
        parameters.votes_a_subnet,
        parameters.closed,
        parameters.owner,
    )
