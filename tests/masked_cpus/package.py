"""A copy of the installed onnxruntime that takes this CPU for an older one.

    python -m tests.masked_cpus.package avx FOLDER
    PYTHONPATH=FOLDER p2pfleet doctor --json

onnxruntime asks ``cpuid`` which kernels it may use. In the copy each of these instructions is
replaced by ``ud1``, which no CPU knows; the kernel turns that into SIGILL, and a handler asks the
real CPU, clears the bits of the level, and goes on behind the instruction. Whoever finds the copy
first on its search path, the children of a sandbox included, computes as on an older CPU, at full
speed. The copy knows its level, and needs neither an environment nor a privilege.

What it does not reach: the C library picks the variants of its own functions with its own
``cpuid``, and so do NumPy and Python. The order of rounding of a real older CPU may therefore
differ once more; for kernels of onnxruntime alone it is the same.

Linux on x86-64 only. The handler is native code (a Python handler runs long after the return from
the signal), written out byte by byte in :mod:`tests.masked_cpus.handler`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import sys
from pathlib import Path

from tests.masked_cpus import handler
from tests.masked_cpus.levels import LEVELS

CPUID, UD1 = b"\x0f\xa2", b"\x0f\xb9"
_BINDING = "onnxruntime_pybind11_state*.so"
_LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "tools", "transformers", "quantization", "datasets", "backend",
    "libonnxruntime.so*", _BINDING,
)  # fmt: skip
_NEIGHBOURS = ("numpy", "msgpack")
_SIGN_BYTES = frozenset(b"\x00\x01\x02\x03\xfc\xfd\xfe\xff")

# Runs in every process that imports the copy, also in a sandbox without site-packages.
_INSTALL = '''"""Installs the handler for the instructions that were taken out of onnxruntime."""

import ctypes
import os
import pathlib

_CODE = pathlib.Path(__file__).with_name("_masked_cpu.bin")


class _Action(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p), ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p),
    )


def install():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    fd = os.open(_CODE, os.O_RDONLY | os.O_CLOEXEC)
    # PROT_READ | PROT_EXEC, MAP_PRIVATE: from a file and never writable, as sandboxes demand.
    address = libc.mmap(None, os.fstat(fd).st_size, 5, 2, fd, 0)
    os.close(fd)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "the handler cannot be mapped")
    # SIGILL is 4; SA_SIGINFO | SA_ONSTACK | SA_NODEFER.
    action = _Action(handler=address, flags=0x4 | 0x08000000 | 0x40000000)
    if libc.sigaction(4, ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), "the handler cannot be installed")


install()
'''


def cpuid_sites(code: bytes, start: int, end: int) -> list[int]:
    """Where ``cpuid`` stands in ``code[start:end]``, an executable segment.

    Its two bytes also occur by chance inside relative addresses of calls, jumps and loads. Such an
    address has four bytes, little-endian, and reaches less than 64 MiB: its uppermost byte, two or
    three places behind the start of a match, is close to 0 or to 255. What follows a real ``cpuid``
    reads a register and looks otherwise, but for a comparison with a small number. Such a ``cpuid``
    stays and tells the truth: those ask which leaves there are, not for features.
    """
    return [
        match.start()
        for match in re.finditer(re.escape(CPUID), code[start:end])
        if not _SIGN_BYTES & set(code[start + match.start() + 2 : start + match.start() + 4])
    ]


def without_cpuid(library: bytes) -> tuple[bytes, int]:
    """The ELF file ``library`` with each ``cpuid`` replaced by ``ud1``, and how many there were."""
    patched = bytearray(library)
    count = 0
    for start, end in _executable(library):
        for site in cpuid_sites(library, start, end):
            patched[start + site : start + site + 2] = UD1
            count += 1
    return bytes(patched), count


def build(level: str, folder: Path, like: Path | None = None) -> Path:
    """Put a package ``onnxruntime`` of ``level`` into ``folder`` and return ``folder``.

    Links to what a sandbox loads beside onnxruntime stand next to it: it looks for all three in the
    folder of the first that it finds.

    About 40 MB, or next to nothing if ``like``, a folder of another level on the same disk, lends
    its library.
    """
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    installed, copy = Path(spec.origin).parent, folder / "onnxruntime"
    shutil.copytree(installed, copy, ignore=_LEFT_OUT)
    (library,) = (installed / "capi").glob(_BINDING)
    target = copy / "capi" / library.name
    if like is not None:
        os.link(like / "onnxruntime" / "capi" / library.name, target)
    else:
        patched, count = without_cpuid(library.read_bytes())
        assert count > 10, f"only {count} cpuid instructions in {library.name}"
        target.write_bytes(patched)
    (copy / "_masked_cpu.bin").write_bytes(handler.CODE + handler.table(LEVELS[level]))
    (copy / "_masked_cpu.py").write_text(_INSTALL, encoding="utf-8")
    # Before all else: the library asks for its kernels while it is being loaded.
    initial = (copy / "__init__.py").read_text(encoding="utf-8")
    (copy / "__init__.py").write_text(
        f"from onnxruntime import _masked_cpu\n{initial}", encoding="utf-8"
    )
    for name in _NEIGHBOURS:
        beside = importlib.util.find_spec(name)
        assert beside is not None
        assert beside.origin is not None
        # NumPy finds its own libraries by a path relative to where the link leads.
        (folder / name).symlink_to(Path(beside.origin).parent, target_is_directory=True)
    return folder


def _executable(library: bytes) -> list[tuple[int, int]]:
    """Start and end, in the file, of the segments of a 64-bit ELF file that hold code."""
    assert library[:6] == b"\x7fELF\x02\x01"
    assert struct.unpack_from("<H", library, 18) == (62,), "not for x86-64"
    (first,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    segments = []
    for index in range(count):
        header = struct.unpack_from("<IIQQQQ", library, first + index * size)
        kind, flags, offset, _, _, length = header
        if kind == 1 and flags & 1:
            segments.append((offset, offset + length))
    return segments


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in LEVELS:
        sys.exit(f"usage: python -m tests.masked_cpus.package {{{','.join(LEVELS)}}} FOLDER")
    print(build(sys.argv[1], Path(sys.argv[2])))
