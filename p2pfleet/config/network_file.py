"""``network.toml``: which network a node belongs to, as its owner gives it out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from p2pfleet.config.addresses import check_addresses, check_bootstrap
from p2pfleet.config.toml_file import (
    ConfigError,
    Mistakes,
    checked,
    checked_peers,
    quoted,
    read_toml,
    write_file,
)
from p2pfleet.core.model.capability import Version
from p2pfleet.core.model.ids import PeerId, peer_text
from p2pfleet.core.model.network import (
    MAX_PUZZLE_BITS,
    MAX_VOTES_A_SUBNET,
    MEMBER_PAGES,
    MEMBERS_A_PAGE,
    NetworkFile,
    NetworkParameters,
    SignedPage,
    SignedRequirement,
)

NETWORK_FILE = "network.toml"
MAX_BOOTSTRAP = 256

_NETWORK_KEYS: dict[str, Any] = {
    "name": Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9.-]*\Z")],
    "bootstrap": Annotated[tuple[str, ...], Meta(max_length=MAX_BOOTSTRAP)],
    "parameters": dict[str, Any],
    "requirement": dict[str, Any],
    "swarm_key": Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")],
    "members": Annotated[tuple[dict[str, Any], ...], Meta(max_length=MEMBER_PAGES)],
}
_PARAMETER_KEYS: dict[str, Any] = {
    "testnet": bool,
    "owner": Annotated[str, Meta(max_length=80)],
    "puzzle_bits": Annotated[int, Meta(ge=0, le=MAX_PUZZLE_BITS)],
    "votes_a_subnet": Annotated[int, Meta(ge=0, le=MAX_VOTES_A_SUBNET)],
    "closed": bool,
}
_REQUIREMENT_KEYS: dict[str, Any] = {
    "onnxruntime": Version,
    "sequence": Annotated[int, Meta(ge=0, lt=2**53)],
    "issued_ms": Annotated[int, Meta(ge=0, lt=2**53)],
    "signature": Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")],
}
_PAGE_KEYS: dict[str, Any] = {
    "page": Annotated[int, Meta(ge=0, lt=MEMBER_PAGES)],
    "sequence": Annotated[int, Meta(ge=0, lt=2**53)],
    "issued_ms": Annotated[int, Meta(ge=0, lt=2**53)],
    "signature": Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")],
    "entries": Annotated[
        tuple[Annotated[tuple[str, ...], Meta(min_length=1, max_length=3)], ...],
        Meta(max_length=MEMBERS_A_PAGE),
    ],
}
_REMOVED = "removed"


def load_network(path: Path) -> NetworkFile:
    """The network in ``path``. Raises :class:`ConfigError` with every mistake in it."""
    text, table = read_toml(path)
    mistakes = Mistakes(text)
    values = checked(table, _NETWORK_KEYS, mistakes)
    parameters = checked(values.get("parameters", {}), _PARAMETER_KEYS, mistakes, "parameters.")
    check_addresses(values.get("bootstrap", ()), "bootstrap", check_bootstrap, mistakes)
    if "name" not in table:
        mistakes.add("name", "is missing; every network has a name of its own")
    if "owner" in parameters:
        (parameters["owner"],) = checked_peers(
            (parameters["owner"],), "parameters.owner", mistakes
        ) or (None,)
    requirement = None
    if "requirement" in values:
        owned = "owner" in values.get("parameters", {})
        requirement = _requirement(values["requirement"], owned, mistakes)
    closed = parameters.get("closed", False)
    if closed and "owner" not in values.get("parameters", {}):
        mistakes.add("parameters.closed", "a closed network needs an owner, who lists its members")
    pages = tuple(_page(one, mistakes) for one in values.get("members", ()))
    for key in ("members", "swarm_key"):
        if key in table and not closed:
            mistakes.add(key, "belongs to closed networks only, and this one is open")
    if "swarm_key" in values and path.stat().st_mode & 0o077:
        mistakes.add("swarm_key", f"is a secret, but others may read it: chmod 600 {path}")
    if mistakes.found:
        raise ConfigError(
            str(path), mistakes.found, "Mend them, or ask whoever runs the network for its file."
        )
    return NetworkFile(
        NetworkParameters(values["name"], **parameters),
        values.get("bootstrap", ()),
        requirement,
        tuple(page for page in pages if page is not None),
        bytes.fromhex(values["swarm_key"]) if "swarm_key" in values else None,
    )


def _page(table: Mapping[str, Any], mistakes: Mistakes) -> SignedPage | None:
    values = checked(table, _PAGE_KEYS, mistakes, "members.")
    missing = [key for key in _PAGE_KEYS if key not in table]
    if missing:
        mistakes.add("members", f"a page lacks {', '.join(missing)}")
    if len(values) < len(_PAGE_KEYS):
        return None
    peers = checked_peers([row[0] for row in values["entries"]], "members.entries", mistakes)
    if len(peers) < len(values["entries"]):
        return None
    entries = []
    for peer, (_, *rest) in zip(peers, values["entries"], strict=True):
        if len(rest) == 2 and rest[1] != _REMOVED:
            mistakes.add("members.entries", f"the third text of an entry is always {_REMOVED!r}")
        entries.append((peer, rest[0] if rest else "", len(rest) < 2))
    return SignedPage(
        values["page"],
        values["sequence"],
        values["issued_ms"],
        tuple(entries),
        bytes.fromhex(values["signature"]),
    )


def _requirement(
    table: Mapping[str, Any], owned: bool, mistakes: Mistakes
) -> SignedRequirement | None:
    values = checked(table, _REQUIREMENT_KEYS, mistakes, "requirement.")
    missing = [key for key in _REQUIREMENT_KEYS if key not in table]
    if missing:
        mistakes.add("requirement", f"lacks {', '.join(missing)}")
    if not owned:
        mistakes.add("requirement", "asks for something, but the network has no owner")
    if len(values) < len(_REQUIREMENT_KEYS):
        return None
    return SignedRequirement(**{**values, "signature": bytes.fromhex(values["signature"])})


def save_network(path: Path, network: NetworkFile) -> None:
    """Write ``network`` to ``path``, durably: a reader sees the old or the new file, never half."""
    lines = [
        "# A p2pfleet network. Whoever differs in the name or in a parameter is on another",
        "# network; the bootstrap addresses are only where to start looking for it.",
        f"name = {quoted(network.parameters.name)}",
        "bootstrap = [",
        *(f"    {quoted(address)}," for address in network.bootstrap),
        "]",
        *_swarm_key_lines(network),
        "",
        "[parameters]",
        f"testnet = {'true' if network.parameters.testnet else 'false'}",
        f"puzzle_bits = {network.parameters.puzzle_bits}",
        f"votes_a_subnet = {network.parameters.votes_a_subnet}",
    ]
    if network.parameters.owner is not None:
        lines.append(f"owner = {quoted(peer_text(network.parameters.owner))}")
    if network.parameters.closed:
        lines.append("closed = true")
    if network.requirement is not None:
        lines += [
            "",
            "# Signed by the owner ('p2pfleet network require'): what is changed here by hand is",
            "# refused. Below this version of onnxruntime a node runs no strangers' work.",
            "[requirement]",
            f"onnxruntime = {quoted(network.requirement.onnxruntime)}",
            f"sequence = {network.requirement.sequence}",
            f"issued_ms = {network.requirement.issued_ms}",
            f"signature = {quoted(network.requirement.signature.hex())}",
        ]
    for page in network.pages:
        lines += [
            "",
            "# Signed by the owner ('p2pfleet network members').",
            "[[members]]",
            f"page = {page.page}",
            f"sequence = {page.sequence}",
            f"issued_ms = {page.issued_ms}",
            f"signature = {quoted(page.signature.hex())}",
            "entries = [",
            *(f"    [{_entry(*entry)}]," for entry in page.entries),
            "]",
        ]
    write_file(path, "\n".join(lines) + "\n")


def _swarm_key_lines(network: NetworkFile) -> list[str]:
    if network.swarm_key is None:
        return []
    return [
        "",
        "# Every connection is encrypted with this; keep it as secret as the members do.",
        f"swarm_key = {quoted(network.swarm_key.hex())}",
    ]


def _entry(peer: PeerId, name: str, admitted: bool) -> str:
    texts = [peer_text(peer), *([name] if name or not admitted else [])]
    return ", ".join(map(quoted, texts if admitted else [*texts, _REMOVED]))
