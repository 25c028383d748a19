"""Runs this Python as an ordinary user, also where root runs the tests.

Root's interpreter may lie in a folder that others cannot enter. A private mount namespace gets
around that: an empty, passable folder covers the closed one, and only what Python needs is bound
into it. Nothing of it is seen outside the process, and nothing is left when it ends.

    subprocess.run(ordinary_user.command("-c", "import os; print(os.getuid())"))
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import tempfile
from pathlib import Path

UID = 54321
"""A user that no password file knows."""

_NEWNS = 0x20000
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


def command(*arguments: str) -> list[str]:
    """What runs ``python ARGUMENTS...`` as a user without any privilege."""
    if os.geteuid() != 0:
        return [sys.executable, *arguments]
    return [sys.executable, __file__, *arguments]


def needed() -> list[Path]:
    """The folders that the interpreter, its libraries and this checkout lie in."""
    folders = [sys.base_prefix, sys.prefix, str(Path(__file__).parents[3])]
    return [Path(folder).resolve() for folder in dict.fromkeys(folders)]


def closed_part(path: Path) -> Path | None:
    """The outermost folder on the way to ``path`` that others may not enter."""
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def open_up() -> None:
    """In a mount namespace of its own: make every needed folder reachable for everybody."""
    _check(_libc.unshare(_NEWNS))
    _mount(None, "/", _REC | _PRIVATE)
    holder = tempfile.mkdtemp()
    _mount("tmpfs", holder, 0, "tmpfs")
    os.chmod(holder, 0o755)
    closed: dict[Path, list[Path]] = {}
    for path in needed():
        part = closed_part(path)
        if part is not None:
            closed.setdefault(part, []).append(path)
    for part, paths in closed.items():
        kept = []
        for number, path in enumerate(paths):
            keep = Path(holder, f"{len(part.parts)}-{number}")
            keep.mkdir()
            _mount(str(path), str(keep), _BIND | _REC)
            kept.append((path, keep))
        _mount("tmpfs", str(part), 0, "tmpfs")
        part.chmod(0o755)
        for path, keep in kept:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
            _mount(str(keep), str(path), _BIND | _REC)
    _check(_libc.umount2(holder.encode(), 2))
    os.rmdir(holder)


def become(uid: int) -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    def raw(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    _check(_libc.mount(raw(source), raw(target), raw(kind), ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    open_up()
    become(UID)
    os.chdir("/")
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
