"""Files and folders that survive a crash: written, synced, and only then given their name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pfleet.core.errors import DiskTrouble, ExitCode, P2pfleetError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM}
FREE_SPACE = "free 200 MB there"
MOUNT_AGAIN = "mount it for writing"
CHECK_DISK = "check it (dmesg names it)"


def sync_folder(folder: Path) -> None:
    """Make the names inside ``folder`` durable (a rename is not, until this returns)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make ``folder``, durable and for its owner only (0700), and the folders above it.

    What exists already stays as it is.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``; one call of the system may take only a part of it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def write_new_file(path: Path, data: bytes) -> None:
    """Make ``path`` with ``data``, 0600 and synced; the name itself is the caller's to sync.

    Raises FileExistsError when it is there already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Give ``path`` the content ``data``, durably: a reader sees the old or the new, never half."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    write_new_file(fresh, data)
    fresh.rename(path)
    sync_folder(path.parent)


def explain_os_error(error: OSError, path: Path) -> P2pfleetError:
    """What ``error`` at ``path`` means to a person, and what to do."""
    if error.errno in _FULL:
        return DiskTrouble(
            f"the disk that holds {path} is full (or your share of it is used up).",
            "Free some space there, or choose another --data-dir, and start again.",
            FREE_SPACE,
        )
    if error.errno == errno.EROFS:
        return DiskTrouble(
            f"the disk that holds {path} is mounted read-only.",
            "Mount it for writing, or choose another --data-dir.",
            MOUNT_AGAIN,
        )
    if error.errno in _REFUSED:
        return P2pfleetError(
            f"{path} cannot be used: {error.strerror}.",
            "Check that the folder belongs to you and that its disk is not mounted read-only,"
            " or choose another --data-dir.",
        )
    if error.errno == errno.EIO:
        return DiskTrouble(
            f"the disk that holds {path} failed to read or write.",
            "Check the disk (dmesg names it) before you go on; back up the identity file.",
            CHECK_DISK,
            ExitCode.DAMAGED,
        )
    reason = error.strerror or str(error)
    return P2pfleetError(
        f"{path} cannot be used: {reason}.", "Mend that, or choose another --data-dir."
    )


@contextmanager
def os_errors_explained(path: Path) -> Iterator[None]:
    """Whatever the system refuses inside becomes a :class:`P2pfleetError` about ``path``."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path) from error
