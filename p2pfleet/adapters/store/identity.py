"""The identity file: the node's Ed25519 seed, in a small text file that only its owner may read.

Three lines: a label with the file's version, the base64 of the 32-byte seed, and the peer id that
belongs to it (for people; and a mistyped or cut seed shows at once).
"""

from __future__ import annotations

import base64
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path

from nacl.bindings import crypto_sign_seed_keypair
from nacl.signing import SigningKey

from p2pfleet.adapters.store.durable_file import (
    make_folder,
    os_errors_explained,
    sync_folder,
    write_new_file,
)
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId, peer_text
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.model.puzzle import fits

_log = logging.getLogger(__name__)

SEED_BYTES = 32
_LABEL = "# p2pfleet identity 1: the secret key of this node; back it up, give it to nobody"
_LABEL_START = "# p2pfleet identity "
_VERSION = "1"
_MAX_FILE_BYTES = 4096
_DRAWS_A_STEP = 1000

Progress = Callable[[int, float], None]


def peer_of(seed: bytes) -> PeerId:
    """The peer (its Ed25519 public key) whose secret seed, 32 bytes, this is."""
    return PeerId(bytes(SigningKey(seed).verify_key))


def load_or_create_identity(
    path: Path, terms: NetworkTerms | None = None, progress: Progress | None = None
) -> bytes:
    """The 32-byte seed in the identity file ``path``; a new one is drawn if there is no file.

    With ``terms`` its key fits that network, which may take seconds to find. Until it is found
    nothing is written, and an exception out of ``progress`` (seeds drawn so far, seconds since the
    first) ends the search. When several processes create the file at once, all get the same seed.
    Raises :class:`P2pfleetError` when others may read the file, it is damaged, it cannot be used,
    or the key in it does not fit.
    """
    with os_errors_explained(path):
        make_folder(path.parent)
        # A dangling link counts as a file: its target may be a disk that is not mounted today.
        if not os.path.lexists(path):
            _create(path, _fitting_seed(terms, progress))
        seed = _load(path)
    if terms is not None and not fits(terms, peer_of(seed)):
        raise P2pfleetError(
            f"the identity in {path} does not fit the network: its key was not made for it.",
            "Every network has identities of its own: choose a new --data-dir for this one, and a"
            " key that fits is made there.",
            ExitCode.USAGE,
        )
    return seed


def _fitting_seed(terms: NetworkTerms | None = None, progress: Progress | None = None) -> bytes:
    """A new 32-byte seed, with ``terms`` one whose key fits that network.

    That takes ``2**puzzle_bits`` draws on average, on one core. ``progress`` is told every few
    hundredths of a second how far it is.
    """
    begin, drawn = time.monotonic(), 0
    while True:
        seed = secrets.token_bytes(SEED_BYTES)
        if terms is None or fits(terms, PeerId(crypto_sign_seed_keypair(seed)[0])):
            return seed
        drawn += 1
        if progress is not None and drawn % _DRAWS_A_STEP == 0:
            progress(drawn, time.monotonic() - begin)


def _create(path: Path, seed: bytes) -> None:
    text = f"{_LABEL}\n{base64.b64encode(seed).decode('ascii')}\n{peer_text(peer_of(seed))}\n"
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
    write_new_file(fresh, text.encode("ascii"))
    try:
        # A link, unlike a rename, never replaces what another process put there first.
        path.hardlink_to(fresh)
    except FileExistsError:
        _log.debug("another process made the identity first")
    except PermissionError as error:
        raise P2pfleetError(
            f"{path.parent} lies on a disk without hard links, so the identity cannot be made"
            " safely there.",
            "Choose another --data-dir, on a disk formatted for this system (ext4, xfs, btrfs).",
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
    # Whoever made it: it is durable before this process uses it.
    sync_folder(path.parent)


def _load(path: Path) -> bytes:
    # Non-blocking: a named pipe of that name must not hold the start up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _damaged(path, "it is no regular file")
        if status.st_mode & 0o077:
            raise P2pfleetError(
                f"others may read or change the identity file {path}"
                f" (its permissions are {stat.S_IMODE(status.st_mode):04o}).",
                f"Run: chmod 600 {path}   If somebody may have read it already, move it away to"
                " get a new identity.",
            )
        data = os.read(descriptor, _MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> bytes:
    if len(data) > _MAX_FILE_BYTES:
        raise _damaged(path, f"it is longer than {_MAX_FILE_BYTES} bytes")
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is no text") from error
    if len(lines) != 3 or not lines[0].startswith(_LABEL_START):
        raise _damaged(path, "it has not the three lines of an identity")
    version = lines[0].removeprefix(_LABEL_START).partition(":")[0]
    if version != _VERSION:
        raise P2pfleetError(
            f"the identity file {path} has version {version[:20]!r}; this p2pfleet reads version"
            f" {_VERSION}.",
            "Please upgrade p2pfleet, or choose another --data-dir.",
            ExitCode.DAMAGED,
        )
    try:
        seed = base64.b64decode(lines[1], validate=True)
    except ValueError as error:
        raise _damaged(path, "its second line is not base64") from error
    if len(seed) != SEED_BYTES:
        raise _damaged(path, f"its key has {len(seed)} bytes instead of {SEED_BYTES}")
    if peer_text(peer_of(seed)) != lines[2]:
        raise _damaged(path, "its key does not belong to the peer id that it names")
    return seed


def _damaged(path: Path, reason: str) -> P2pfleetError:
    return P2pfleetError(
        f"the identity file {path} is damaged: {reason}.",
        "Put your backup in its place. Without one, move it away and start again: the node then"
        " gets a new identity, and the credit of the old one stays with the old one.",
        ExitCode.DAMAGED,
    )
