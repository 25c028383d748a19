"""Reads ``.npz`` and ``.npy`` files that people hand in.

Such a file may be damaged, may hold pickled objects, or may unpack to far more than it is. So
numpy's own loader is not let near it: every header is read first and held against the limit, the
size of the file, and the signature; only then is memory taken, and only numbers are read into it.
"""

from __future__ import annotations

import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy

from p2pfleet.adapters.inputs.bundles import Array, check_names
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.wire.tensors import ITEM_BYTES, MAX_RANK, MAX_TENSORS
from p2pfleet.ports import ModelSignature

MAX_INPUT_BYTES = 4 * 2**30

_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
_READ_BYTES = 2**20
# No deflate stream unpacks to more than 1,032 times itself.
_DEFLATE_MOST = 1_032
_ENCRYPTED = 0x1
# What zipfile and numpy's header parser are known to raise on damaged input.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    RecursionError,
    SyntaxError,
    TypeError,
    struct.error,
    tokenize.TokenError,
)


class _Refused(Exception):
    """The file is not taken: a clause that follows the file's name, and advice."""

    def __init__(self, clause: str, advice: str = "") -> None:
        super().__init__(clause)
        self.clause = clause
        self.advice = advice


def read_input_file(
    path: Path, signature: ModelSignature, max_bytes: int = MAX_INPUT_BYTES
) -> dict[str, Array]:
    """The arrays in a ``.npz`` file, or the single array of a ``.npy`` file, by input name.

    What a file is, is told by its first bytes. Its names must be the model's inputs (a ``.npy``
    file has none, so the model must have one input); dtypes and shapes are checked later, by
    ``bundle_from_arrays``. The arrays may take ``max_bytes`` in memory together. Raises
    :class:`P2pfleetError`.
    """
    with open_regular(path) as stream:
        try:
            return _read(stream, os.fstat(stream.fileno()).st_size, signature, max_bytes)
        except _Refused as refused:
            raise P2pfleetError(f"{path} {refused.clause}.", refused.advice) from refused
        except P2pfleetError as error:
            raise P2pfleetError(f"{path}: {error.message}", error.advice, error.code) from error
        except MemoryError as error:
            raise P2pfleetError(
                f"{path} does not fit into this machine's memory.",
                "Write the inputs into several smaller files.",
            ) from error
        except OSError as error:
            raise P2pfleetError(
                f"{path} cannot be read: {error.strerror or error}.",
                "Check the disk it lies on.",
            ) from error
        except _DAMAGE as error:
            raise P2pfleetError(
                f"{path} is damaged or no numpy file: {str(error)[:200] or type(error).__name__}.",
                "Write it again with np.savez or np.save.",
            ) from error


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open an ordinary file for reading. Raises :class:`P2pfleetError` for whatever else it is."""
    try:
        # Without O_NONBLOCK a named pipe in a stranger's folder would hold us up for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise P2pfleetError(f"{path} does not exist.", "Check the name and the folder.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise P2pfleetError(
            f"{path} cannot be opened: {reason}.", "Check its name and its permissions."
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise P2pfleetError(
                f"{path} is a folder.", f"Name the files in it: {path}/*.npz, for example."
            )
        if not stat.S_ISREG(mode):
            raise P2pfleetError(
                f"{path} is not an ordinary file.", "Write what it delivers to a file first."
            )
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def _read(
    stream: BinaryIO, size: int, signature: ModelSignature, max_bytes: int
) -> dict[str, Array]:
    start = stream.read(len(_NPY_MAGIC))
    stream.seek(0)
    if start == _NPY_MAGIC:
        if len(signature.inputs) != 1:
            names = ", ".join(repr(spec.name) for spec in signature.inputs)
            raise _Refused(
                f"holds one array without a name, but the model has {len(signature.inputs)} inputs",
                f"Write them into one file: np.savez('inputs.npz', ...) with the names {names}.",
            )
        return {signature.inputs[0].name: _read_array(stream, size, max_bytes)}
    if start.startswith(_ZIP_MAGICS):
        with zipfile.ZipFile(stream) as archive:
            return _read_members(archive, size, signature, max_bytes)
    if start.startswith(b"\x80"):
        raise _Refused(
            "holds pickled Python objects, which are never loaded: they could run any program",
            "Write plain arrays with np.savez('inputs.npz', name=array).",
        )
    raise _Refused(
        "is neither a .npz nor a .npy file",
        "Write inputs with np.savez('inputs.npz', name=array).",
    )


def _read_members(
    archive: zipfile.ZipFile, size: int, signature: ModelSignature, max_bytes: int
) -> dict[str, Array]:
    members = archive.infolist()
    if len(members) > MAX_TENSORS:
        raise _Refused(f"holds {len(members)} arrays; at most {MAX_TENSORS} are allowed")
    by_name: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise _Refused(
                f"holds {member.filename[:80]!r}, which is not an array",
                "Write inputs with np.savez('inputs.npz', name=array).",
            )
        if name in by_name:
            raise _Refused(f"holds two arrays named {name[:80]!r}")
        by_name[name] = member
        _check_member(member, name)
    if sum(member.compress_size for member in members) > size:
        raise _Refused("is damaged: its arrays overlap")
    declared = sum(member.file_size for member in members)
    if declared > max_bytes:
        raise _too_large(declared, max_bytes)
    check_names(by_name, signature)
    arrays = {}
    for name, member in by_name.items():
        with archive.open(member) as stream:
            try:
                arrays[name] = _read_array(stream, member.file_size, max_bytes)
            except _Refused as refused:
                clause = f"is not taken: array {name[:80]!r} {refused.clause}"
                raise _Refused(clause, refused.advice) from refused
    return arrays


def _check_member(member: zipfile.ZipInfo, name: str) -> None:
    if member.flag_bits & _ENCRYPTED:
        raise _Refused(f"is encrypted (array {name[:80]!r})", "Write it again without a password.")
    if member.compress_type == zipfile.ZIP_STORED:
        most = member.compress_size
    elif member.compress_type == zipfile.ZIP_DEFLATED:
        most = member.compress_size * _DEFLATE_MOST
    else:
        raise _Refused(
            f"is compressed in a way that numpy does not write (array {name[:80]!r})",
            "Write it again with np.savez or np.savez_compressed.",
        )
    if member.file_size > most:
        raise _Refused(
            f"is damaged: array {name[:80]!r} declares {member.file_size} bytes, and cannot hold "
            f"more than {most}"
        )


def _read_array(stream: IO[bytes], size: int, max_bytes: int) -> Array:
    """The array in ``stream``, whose ``size`` bytes must be exactly a header and its elements."""
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(stream)
    else:
        raise _Refused("holds records, not plain numbers", _numbers_advice())
    if dtype.hasobject:
        raise _Refused(
            "holds pickled Python objects, which are never loaded: they could run any program",
            _numbers_advice(),
        )
    if dtype.name not in ITEM_BYTES:
        raise _Refused(f"has the type {dtype.name[:80]}", _numbers_advice())
    if len(shape) > MAX_RANK or any(axis < 0 for axis in shape):
        raise _Refused(f"has an impossible shape (at most {MAX_RANK} axes are allowed)")
    needed, present = prod(shape) * dtype.itemsize, size - stream.tell()
    if needed != present:
        raise _Refused(
            f"is damaged: it holds {present} bytes where its shape {list(shape)} of {dtype.name} "
            f"needs {needed}"
        )
    if needed > max_bytes:
        raise _too_large(needed, max_bytes)
    raw = np.empty(needed, np.uint8)
    view = raw.data
    done = 0
    while done < needed:
        data = stream.read(min(_READ_BYTES, needed - done))
        if not data:
            raise _Refused(f"is damaged: it ends {needed - done} bytes early")
        view[done : done + len(data)] = data
        done += len(data)
    # One more read makes zipfile reach the end, where it checks the CRC.
    if stream.read(1):
        raise _Refused("is damaged: bytes follow the array")
    return raw.view(dtype).reshape(shape, order="F" if fortran else "C")


def _numbers_advice() -> str:
    return f"Units carry {', '.join(ITEM_BYTES)}: convert it with array.astype(...)."


def _too_large(declared: int, max_bytes: int) -> _Refused:
    return _Refused(
        f"unpacks to {declared} bytes; at most {max_bytes} are read from one file",
        "Write the inputs into several smaller files.",
    )
