"""Which data folder a command means, and how a folder comes to belong to a network."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from p2pfleet.config.network_file import NETWORK_FILE, load_network, save_network
from p2pfleet.config.node_file import NODE_FILE, default_data_dir
from p2pfleet.config.toml_file import write_file
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.network import (
    DEFAULT_VOTES_A_SUBNET,
    NetworkFile,
    NetworkParameters,
)
from p2pfleet.core.model.puzzle import DEFAULT_BITS

PROFILES = ("vehicle", "volunteer", "publisher", "bootstrap")
DEFAULT_NETWORK = NetworkFile(
    NetworkParameters("p2pfleet", puzzle_bits=DEFAULT_BITS, votes_a_subnet=DEFAULT_VOTES_A_SUBNET)
)


@dataclass(frozen=True)
class Place:
    """What ``--data-dir`` and ``--network`` say."""

    data_dir: Path | None
    network: Path | None

    @functools.cached_property
    def folder(self) -> Path:
        """The data folder meant.

        A network file without ``--data-dir`` means the default folder if that belongs to the same
        network, else ``networks/<name>-<id>`` below it: every network gets its own identity, jobs
        and reputation, and no command needs to be told twice.
        """
        if self.data_dir is not None:
            return self.data_dir.expanduser().absolute()
        default = default_data_dir()
        if self.network is None:
            return default
        wanted = load_network(self.network)
        known = remembered_network(default)
        if known is not None and known.id == wanted.id:
            return default
        return default / "networks" / f"{wanted.parameters.name}-{wanted.id.hex()[:8]}"


def remembered_network(folder: Path) -> NetworkFile | None:
    """The network that ``folder`` belongs to, or ``None`` if it belongs to none yet."""
    path = folder / NETWORK_FILE
    return load_network(path) if path.exists() else None


def join_network(folder: Path, network: NetworkFile) -> None:
    """Make ``folder`` (made 0700 if missing) belong to ``network``, for good.

    Bootstrap addresses and what the owner says may be others than before. Another network is
    refused, since identity, jobs and reputation in the folder mean nothing there, and so are a
    requirement or members that the network's owner did not sign and a network that the identity in
    the folder does not fit.
    """
    known = remembered_network(folder)
    if known == network:
        return
    if known is not None and known.id != network.id:
        raise P2pfleetError(
            f"{folder} belongs to the network {known.parameters.name!r} "
            f"({known.id.hex()[:8]}), not to {network.parameters.name!r} "
            f"({network.id.hex()[:8]}).",
            "Choose another --data-dir for this network.",
            ExitCode.USAGE,
        )
    if network.requirement is not None:
        from p2pfleet.runtime.requirements import opened_requirement

        opened_requirement(network)
    if network.pages:
        from p2pfleet.runtime.closed import merged_pages, opened_pages

        opened_pages(network)
        network = network if known is None else merged_pages(known, network)
    make_folder(folder)
    if known is None and os.path.lexists(folder / "identity.key"):
        from p2pfleet.adapters.store import load_or_create_identity

        load_or_create_identity(folder / "identity.key", network.terms)
    save_network(folder / NETWORK_FILE, network)


def set_up(folder: Path, profile: str, network: NetworkFile) -> None:
    """Make ``folder`` a data folder of ``network`` that starts from ``profile``.

    The configuration is written last, so that what was cut off is begun again. Raises
    :class:`P2pfleetError` if there is a configuration already.
    """
    from p2pfleet.resources import resource_path

    if (folder / NODE_FILE).exists():
        raise P2pfleetError(
            f"{folder} is set up already.",
            f"Edit {folder / NODE_FILE}, or choose another --data-dir.",
        )
    text = resource_path("nodes", profile, NODE_FILE).read_text(encoding="utf-8")
    join_network(folder, network)
    write_file(folder / NODE_FILE, text)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, for its owner only."""
    try:
        for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_dir():
            raise NotADirectoryError(20, "it is no folder")
    except OSError as error:
        raise P2pfleetError(
            f"the folder {folder} cannot be made: {error.strerror or error}.",
            "Check its name and permissions, or choose another one.",
        ) from error


def profile_file(profile: str) -> Path:
    """The file that ``--profile`` means: a path, or the name of one of the four profiles."""
    from p2pfleet.resources import resource_path

    if profile in PROFILES and not Path(profile).is_file():
        return resource_path("nodes", profile, NODE_FILE)
    return Path(profile)
