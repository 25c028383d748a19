"""A network: its normative parameters, which make its identity, and how to reach it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pfleet.core.model.ids import NetworkId, sha256


class NetworkParameters(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag="p2pfleet/1/network",
):
    """The normative part of a network file: whoever differs in one of these is on another network.

    ``testnet`` marks networks for trying things: only there may nodes be told to misbehave.
    """

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9.-]*\Z")]
    testnet: bool = False


class NetworkFile(msgspec.Struct, frozen=True):
    """A whole network file: the normative parameters, and addresses to start from."""

    parameters: NetworkParameters
    bootstrap: tuple[str, ...] = ()

    @property
    def id(self) -> NetworkId:
        return network_id(self.parameters)


def network_id(parameters: NetworkParameters) -> NetworkId:
    """The hash of the canonical encoding of the normative part."""
    return NetworkId(sha256(msgspec.msgpack.encode(parameters)))
