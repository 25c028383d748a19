"""What the owner of a node decides: ``node.toml`` and ``network.toml`` as checked, frozen values.

A file is read whole before anything is refused, so that every mistake in it is reported at once,
each with its line and its key.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs
from msgspec import Meta

from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.capability import Version
from p2pfleet.core.model.ids import PeerId, parse_peer, peer_text
from p2pfleet.core.model.job import Limits
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

NODE_FILE = "node.toml"
NETWORK_FILE = "network.toml"
DATA_DIR_VARIABLE = "P2PFLEET_DATA_DIR"
MAX_FILE_BYTES = 2**20
MAX_BOOTSTRAP = 256
MAX_LISTEN = 16
MAX_ANNOUNCED = 8
MAX_ADDRESS_CHARS = 200

Role = Literal["volunteer", "publisher", "bootstrap"]
Relay = Literal["auto", "on", "off"]
LogLevel = Literal["debug", "info", "warning", "error"]

_ADDRESS = re.compile(
    r"/(?P<kind>ip4|ip6|dns|dns4|dns6)/(?P<host>[^/\s]{1,120})/tcp/(?P<port>[0-9]{1,5})"
    r"(?:/p2p/(?P<peer>[1-9A-HJ-NP-Za-km-z]{1,80}))?",
    re.ASCII,
)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,118}[A-Za-z0-9])?", re.ASCII)


DISK_MB = 10240


class NodeConfig(msgspec.Struct, frozen=True):
    """All that a node is told when it starts.

    ``listen`` and ``bootstrap`` are multiaddresses (``bootstrap``: the network file's, the
    configuration's and the command line's together); ``slots`` is how many units run at once, each
    with one thread, 0 unless the node volunteers. ``memory_mb`` caps one child, ``disk_mb`` all
    that the node keeps, ``custody_mb`` what of it is kept for others' sake, ``unit_cpu_s`` the
    processor time of one unit, whatever a job asks for (MiB, MiB, MiB, seconds). ``cpu_percent``
    is the share of the time in which children compute.
    ``contrib_ops`` admits operators of the domain com.microsoft. ``trusted_publishers`` are those
    whose work may run where the sandbox is too weak for strangers'. ``announce`` replaces the
    addresses that others are told (for a forwarded port); ``mdns`` says whether the node announces
    itself on its LAN, ``relay`` whether it carries connections for nodes behind routers, and lets
    others carry its own (``auto``: as it is needed and possible; ``on``: carries in any case).
    """

    data_dir: Path
    network: NetworkFile
    listen: tuple[str, ...]
    bootstrap: tuple[str, ...]
    roles: tuple[str, ...]
    slots: int
    memory_mb: int = 2048
    disk_mb: int = DISK_MB
    custody_mb: int = DISK_MB // 4
    unit_cpu_s: int = 3600
    cpu_percent: int = 100
    contrib_ops: bool = False
    trusted_publishers: tuple[PeerId, ...] = ()
    log_level: str = "info"
    recording: bool = False
    announce: tuple[str, ...] = ()
    mdns: bool = True
    relay: Relay = "auto"

    @property
    def unit_limits(self) -> Limits:
        """What one unit may use at most, whatever its job asks for."""
        memory_bytes = self.memory_mb * 2**20
        return Limits(
            memory_bytes=memory_bytes,
            cpu_ms=self.unit_cpu_s * 1000,
            output_bytes=min(memory_bytes, 2**32),
        )


class ConfigError(P2pfleetError):
    """A file with mistakes in it, all of them."""

    def __init__(self, what: str, mistakes: Sequence[str], advice: str) -> None:
        lines = "".join(f"\n  - {mistake}" for mistake in mistakes)
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{what} has {count}:{lines}\n", advice, ExitCode.USAGE)
        self.mistakes = tuple(mistakes)


_NODE_KEYS: dict[str, Any] = {
    "network": Annotated[str, Meta(min_length=1, max_length=4096)],
    "listen": Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_LISTEN)],
    "bootstrap": Annotated[tuple[str, ...], Meta(max_length=MAX_BOOTSTRAP)],
    "announce": Annotated[tuple[str, ...], Meta(max_length=MAX_ANNOUNCED)],
    "mdns": bool,
    "relay": Relay,
    "roles": Annotated[tuple[Role, ...], Meta(min_length=1, max_length=3)],
    "slots": Annotated[int, Meta(ge=0, le=1024)],
    "memory_mb": Annotated[int, Meta(ge=64, le=2**20)],
    "disk_mb": Annotated[int, Meta(ge=64, le=2**30)],
    "custody_mb": Annotated[int, Meta(ge=0, le=2**30)],
    "unit_cpu_s": Annotated[int, Meta(ge=1, le=24 * 3600)],
    "cpu_percent": Annotated[int, Meta(ge=1, le=100)],
    "contrib_ops": bool,
    "trusted_publishers": Annotated[
        tuple[Annotated[str, Meta(max_length=80)], ...], Meta(max_length=256)
    ],
    "log_level": LogLevel,
    "recording": bool,
}
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


# ---- node.toml -------------------------------------------------------------------------------


def load_config(
    file: Path | None,
    *,
    data_dir: Path | None = None,
    network: Path | None = None,
    listen: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    roles: Sequence[str] | None = None,
    slots: int | None = None,
) -> NodeConfig:
    """The configuration in ``file``, overridden by what the other arguments give.

    Without ``file`` it is ``node.toml`` of the data folder; where that is missing, the defaults of
    a volunteer. The network comes from ``network``, else from the file that the configuration
    names (relative to itself), else from ``network.toml`` of the data folder. ``bootstrap`` adds
    addresses, everything else replaces. Raises :class:`ConfigError` with every mistake, or
    :class:`P2pfleetError` when a file is missing or unreadable.
    """
    folder = (data_dir or default_data_dir()).absolute()
    if file is None and (folder / NODE_FILE).exists():
        file = folder / NODE_FILE
    text, table = ("", {}) if file is None else _read_toml(file)
    mistakes = _Mistakes(text)
    values = _checked(table, _NODE_KEYS, mistakes)
    _check_addresses(values.get("listen", ()), "listen", check_listen, mistakes)
    _check_addresses(values.get("announce", ()), "announce", check_announced, mistakes)
    _check_addresses(values.get("bootstrap", ()), "bootstrap", check_bootstrap, mistakes)
    for given, check in ((listen, check_listen), (bootstrap, check_bootstrap)):
        _check_addresses(given, "command line", check, mistakes)

    chosen = tuple(dict.fromkeys(values.get("roles", ("volunteer",)) if roles is None else roles))
    asked = values.get("slots") if slots is None else slots
    if roles is not None and slots is None and "volunteer" not in chosen:
        asked = 0  # the command decides; what the file says of volunteering does not apply
    if asked and "volunteer" not in chosen:
        mistakes.add(
            "slots",
            f"{asked} slots, but the node is no volunteer: add it to roles, or set slots to 0",
        )
    elif asked == 0 and "volunteer" in chosen:
        mistakes.add("slots", "a volunteer needs at least 1; take it out of roles to run nothing")

    disk_mb = values.get("disk_mb", DISK_MB)
    custody_mb = values.get("custody_mb", disk_mb // 4)
    if custody_mb > disk_mb:
        mistakes.add(
            "custody_mb",
            f"{custody_mb} MiB for others are more than the {disk_mb} MiB of disk_mb",
        )
    trusted = _peers(values.get("trusted_publishers", ()), "trusted_publishers", mistakes)
    found = _find_network(file, folder, network, values.get("network"), mistakes)
    if mistakes.found or found is None:
        raise ConfigError(
            str(file) if file else "the command line",
            mistakes.found,
            "Mend them; 'p2pfleet config check' looks again.",
        )
    return NodeConfig(
        data_dir=folder,
        network=found,
        listen=tuple(listen) or values.get("listen") or default_listen(found),
        bootstrap=tuple(
            dict.fromkeys((*found.bootstrap, *values.get("bootstrap", ()), *bootstrap))
        ),
        roles=chosen,
        slots=(asked or 1) if "volunteer" in chosen else 0,
        trusted_publishers=trusted,
        custody_mb=custody_mb,
        **{
            key: values[key]
            for key in (
                "memory_mb",
                "disk_mb",
                "unit_cpu_s",
                "cpu_percent",
                "contrib_ops",
                "announce",
                "mdns",
                "relay",
                "log_level",
                "recording",
            )
            if key in values
        },
    )


def _peers(texts: Sequence[str], key: str, mistakes: _Mistakes) -> tuple[PeerId, ...]:
    peers = []
    for text in texts:
        try:
            peers.append(parse_peer(text))
        except Malformed as error:
            mistakes.add(key, f"{text!r} is no peer id: {error}")
    return tuple(peers)


def default_data_dir() -> Path:
    """The platform's data folder for p2pfleet, or what ``P2PFLEET_DATA_DIR`` names."""
    named = os.environ.get(DATA_DIR_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    return platformdirs.user_data_path("p2pfleet", appauthor=False)


def default_listen(network: NetworkFile) -> tuple[str, ...]:
    """Where a node listens that was not told: everywhere, or on a local testnet only there."""
    local = bool(network.bootstrap) and all(map(on_loopback, network.bootstrap))
    host = "127.0.0.1" if network.parameters.testnet and local else "0.0.0.0"  # noqa: S104
    return (f"/ip4/{host}/tcp/0",)


def _find_network(
    file: Path | None,
    folder: Path,
    given: Path | None,
    named: str | None,
    mistakes: _Mistakes,
) -> NetworkFile | None:
    if given is not None:
        return load_network(given)
    path = folder / NETWORK_FILE
    if named is not None and file is not None:
        path = file.parent / named
        if not path.exists():
            mistakes.add("network", f"there is no file {path}")
            return None
    if not path.exists():
        if mistakes.found:
            return None
        raise P2pfleetError(
            f"{folder} belongs to no network yet.",
            f"Run: p2pfleet init --network FILE --data-dir {folder}   or name one with --network.",
            ExitCode.USAGE,
        )
    return load_network(path)


# ---- network.toml ----------------------------------------------------------------------------


def load_network(path: Path) -> NetworkFile:
    """The network in ``path``. Raises :class:`ConfigError` with every mistake in it."""
    text, table = _read_toml(path)
    mistakes = _Mistakes(text)
    values = _checked(table, _NETWORK_KEYS, mistakes)
    parameters = _checked(values.get("parameters", {}), _PARAMETER_KEYS, mistakes, "parameters.")
    _check_addresses(values.get("bootstrap", ()), "bootstrap", check_bootstrap, mistakes)
    if "name" not in table:
        mistakes.add("name", "is missing; every network has a name of its own")
    if "owner" in parameters:
        (parameters["owner"],) = _peers((parameters["owner"],), "parameters.owner", mistakes) or (
            None,
        )
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


def _page(table: Mapping[str, Any], mistakes: _Mistakes) -> SignedPage | None:
    values = _checked(table, _PAGE_KEYS, mistakes, "members.")
    missing = [key for key in _PAGE_KEYS if key not in table]
    if missing:
        mistakes.add("members", f"a page lacks {', '.join(missing)}")
    if len(values) < len(_PAGE_KEYS):
        return None
    peers = _peers([row[0] for row in values["entries"]], "members.entries", mistakes)
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
    table: Mapping[str, Any], owned: bool, mistakes: _Mistakes
) -> SignedRequirement | None:
    values = _checked(table, _REQUIREMENT_KEYS, mistakes, "requirement.")
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
        f"name = {_quoted(network.parameters.name)}",
        "bootstrap = [",
        *(f"    {_quoted(address)}," for address in network.bootstrap),
        "]",
        *_swarm_key_lines(network),
        "",
        "[parameters]",
        f"testnet = {'true' if network.parameters.testnet else 'false'}",
        f"puzzle_bits = {network.parameters.puzzle_bits}",
        f"votes_a_subnet = {network.parameters.votes_a_subnet}",
    ]
    if network.parameters.owner is not None:
        lines.append(f"owner = {_quoted(peer_text(network.parameters.owner))}")
    if network.parameters.closed:
        lines.append("closed = true")
    if network.requirement is not None:
        lines += [
            "",
            "# Signed by the owner ('p2pfleet network require'): what is changed here by hand is",
            "# refused. Below this version of onnxruntime a node runs no strangers' work.",
            "[requirement]",
            f"onnxruntime = {_quoted(network.requirement.onnxruntime)}",
            f"sequence = {network.requirement.sequence}",
            f"issued_ms = {network.requirement.issued_ms}",
            f"signature = {_quoted(network.requirement.signature.hex())}",
        ]
    for page in network.pages:
        lines += [
            "",
            "# Signed by the owner ('p2pfleet network members').",
            "[[members]]",
            f"page = {page.page}",
            f"sequence = {page.sequence}",
            f"issued_ms = {page.issued_ms}",
            f"signature = {_quoted(page.signature.hex())}",
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
        f"swarm_key = {_quoted(network.swarm_key.hex())}",
    ]


def _entry(peer: PeerId, name: str, admitted: bool) -> str:
    texts = [peer_text(peer), *([name] if name or not admitted else [])]
    return ", ".join(map(_quoted, texts if admitted else [*texts, _REMOVED]))


def write_file(path: Path, text: str) -> None:
    """Write a small text file (0600), whole and durable, or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise P2pfleetError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Make room, check its permissions, or choose another folder.",
        ) from error


def _quoted(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")


# ---- addresses -------------------------------------------------------------------------------


def check_listen(address: str) -> str | None:
    """Why a node cannot listen on ``address``, or ``None`` when it can."""
    match = _parsed(address)
    if match is None or match["peer"] or match["kind"] not in ("ip4", "ip6"):
        return (
            f"{address[:MAX_ADDRESS_CHARS]!r} is no address to listen on; write it like "
            "/ip4/0.0.0.0/tcp/4001 (port 0: the system chooses)"
        )
    return None


def check_announced(address: str) -> str | None:
    """Why others cannot reach a node at ``address``, or ``None`` when they may."""
    match = _parsed(address)
    if match is None or match["peer"] or int(match["port"]) == 0:
        return (
            f"{address[:MAX_ADDRESS_CHARS]!r} is no address that others could dial; write it like "
            "/ip4/203.0.113.7/tcp/4001"
        )
    return None


def check_bootstrap(address: str) -> str | None:
    """Why ``address`` leads to no node, or ``None`` when it may."""
    match = _parsed(address)
    if match is None or not match["peer"] or int(match["port"]) == 0:
        return (
            f"{address[:MAX_ADDRESS_CHARS]!r} is no node's address; write it like "
            "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooW... (every node prints its own)"
        )
    try:
        parse_peer(match["peer"])
    except Malformed as error:
        return f"{address[:MAX_ADDRESS_CHARS]!r}: {error}"
    return None


def _parsed(address: str) -> re.Match[str] | None:
    match = _ADDRESS.fullmatch(address) if len(address) <= MAX_ADDRESS_CHARS else None
    if match is None or int(match["port"]) > 65535:
        return None
    try:
        if match["kind"] == "ip4":
            ipaddress.IPv4Address(match["host"])
        elif match["kind"] == "ip6":
            ipaddress.IPv6Address(match["host"])
        elif not _HOST_NAME.fullmatch(match["host"]):
            return None
    except ValueError:
        return None
    return match


def on_loopback(address: str) -> bool:
    """Whether an address leads to this machine only."""
    return address.startswith(("/ip4/127.", "/ip6/::1/"))


# ---- reading ---------------------------------------------------------------------------------


class _Mistakes:
    """Gathers what is wrong with a file, each with the line on which its key stands."""

    def __init__(self, text: str) -> None:
        self.found: list[str] = []
        self._lines = text.splitlines()

    def add(self, key: str, what: str) -> None:
        last = re.escape(key.rpartition(".")[2])
        pattern = re.compile(rf"""\s*(?:["']?{last}["']?\s*[=.]|\[\s*{last}\s*[\].])""")
        line = next((n for n, text in enumerate(self._lines, 1) if pattern.match(text)), None)
        self.found.append(f"line {line}, {key}: {what}" if line else f"{key}: {what}")


def _read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        # Non-blocking: a named pipe in place of the file must not hold the command up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise P2pfleetError(
                    f"{path} is no ordinary file.", "Name a .toml file.", ExitCode.USAGE
                )
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise P2pfleetError(
            f"there is no file {path}.", "Check its name and folder.", ExitCode.USAGE
        ) from error
    except (OSError, ValueError) as error:
        raise P2pfleetError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Check its permissions.",
            ExitCode.USAGE,
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise P2pfleetError(
            f"{path} has more than {MAX_FILE_BYTES} bytes.",
            "It is hardly a configuration: check the name.",
            ExitCode.USAGE,
        )
    try:
        text = data.decode("utf-8")
        return text, tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) or "too deeply nested"
        raise ConfigError(str(path), [reason], "It has to be a TOML file in UTF-8.") from error


def _checked(
    table: Mapping[str, Any], keys: Mapping[str, Any], mistakes: _Mistakes, prefix: str = ""
) -> dict[str, Any]:
    """The entries of ``table`` that are right; everything else becomes a mistake."""
    values = {}
    for key, value in table.items():
        if key not in keys:
            known = ", ".join(keys)
            mistakes.add(prefix + key[:80], f"there is no such key here; there are: {known}")
            continue
        try:
            values[key] = msgspec.convert(value, keys[key], strict=True)
        except msgspec.ValidationError as error:
            mistakes.add(prefix + key, _plain(str(error), "..." if key == "swarm_key" else value))
    return values


_WORDS = {
    " - at `$": " at `value",
    "`array`": "a list",
    "`object`": "a table",
    "`str`": "text",
    "`int`": "a whole number",
    "`float`": "a number with a point",
    "`bool`": "true or false",
    r"matching regex '^[a-z0-9][a-z0-9.-]*\\Z'": "of small letters, digits, dots and dashes",
    r"matching regex '^[0-9]{1,6}(\\.[0-9]{1,6}){0,3}\\Z'": "like 1.32.0",
    r"matching regex '^[0-9a-f]{128}\\Z'": "of 128 hexadecimal digits",
    r"matching regex '^[0-9a-f]{64}\\Z'": "of 64 hexadecimal digits",
}


def _plain(reason: str, value: Any) -> str:
    for word, plain in _WORDS.items():
        reason = reason.replace(word, plain)
    return f"{reason[:1].lower()}{reason[1:]} (it is {value!r:.80})"


def _check_addresses(
    addresses: Sequence[str],
    key: str,
    check: Callable[[str], str | None],
    mistakes: _Mistakes,
) -> None:
    for address in addresses:
        problem = check(address)
        if problem is not None:
            mistakes.add(key, problem)
