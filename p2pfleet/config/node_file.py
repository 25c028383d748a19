"""``node.toml``: what the owner of a node decides, and what the command line changes of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs
from msgspec import Meta

from p2pfleet.config.addresses import (
    check_addresses,
    check_announced,
    check_bootstrap,
    check_listen,
    on_loopback,
)
from p2pfleet.config.network_file import MAX_BOOTSTRAP, NETWORK_FILE, load_network
from p2pfleet.config.toml_file import ConfigError, Mistakes, checked, checked_peers, read_toml
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.job import Limits
from p2pfleet.core.model.network import NetworkFile

NODE_FILE = "node.toml"
DATA_DIR_VARIABLE = "P2PFLEET_DATA_DIR"
MAX_LISTEN = 16
MAX_ANNOUNCED = 8
DISK_MB = 10240

Role = Literal["volunteer", "publisher", "bootstrap"]
Relay = Literal["auto", "on", "off"]
LogLevel = Literal["debug", "info", "warning", "error"]


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
    addresses that others are told (for a forwarded port); ``bulk_port`` is the TCP port of the bulk
    channel on the hosts of ``listen`` (0: the system chooses); ``mdns`` says whether the node
    announces itself on its LAN, ``relay`` whether it carries connections for nodes behind routers,
    and lets others carry its own (``auto``: as it is needed and possible; ``on``: carries in any
    case).
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
    bulk_port: int = 0
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


_NODE_KEYS: dict[str, Any] = {
    "network": Annotated[str, Meta(min_length=1, max_length=4096)],
    "listen": Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_LISTEN)],
    "bootstrap": Annotated[tuple[str, ...], Meta(max_length=MAX_BOOTSTRAP)],
    "announce": Annotated[tuple[str, ...], Meta(max_length=MAX_ANNOUNCED)],
    "bulk_port": Annotated[int, Meta(ge=0, le=65535)],
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
    text, table = ("", {}) if file is None else read_toml(file)
    mistakes = Mistakes(text)
    values = checked(table, _NODE_KEYS, mistakes)
    check_addresses(values.get("listen", ()), "listen", check_listen, mistakes)
    check_addresses(values.get("announce", ()), "announce", check_announced, mistakes)
    check_addresses(values.get("bootstrap", ()), "bootstrap", check_bootstrap, mistakes)
    for given, check in ((listen, check_listen), (bootstrap, check_bootstrap)):
        check_addresses(given, "command line", check, mistakes)

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
    trusted = checked_peers(values.get("trusted_publishers", ()), "trusted_publishers", mistakes)
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
                "bulk_port",
                "mdns",
                "relay",
                "log_level",
                "recording",
            )
            if key in values
        },
    )


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
    mistakes: Mistakes,
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
