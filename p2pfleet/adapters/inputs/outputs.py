"""The results folder's ``outputs/000042.npz``: one unit's outputs, exactly one way to write them.

Anybody can open such a file with ``numpy.load``. It is written byte by byte here rather than by
``numpy.savez``, because the same bundle must give the same bytes under every version of Python and
numpy: reading writes the file once more in memory and refuses it if a single byte differs, so that
nothing in it, not even padding or a date, can be changed unnoticed.

The layout, in the order of the model's outputs: for each tensor a stored (not compressed) ZIP64
member, dated 1980-01-01, that holds an npy 1.0 header padded to 64 bytes and the elements, C order,
little-endian; then the ZIP directory. A member is named after its tensor with everything but
letters, digits and ``_.-~`` percent-encoded (``a/b:0`` is ``a%2Fb%3A0.npy``), so that no unpacker
takes a stranger's tensor name for a path.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

import msgspec

from p2pfleet.adapters.inputs.files import open_regular
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.job import MAX_BLOB_BYTES, MAX_UNITS
from p2pfleet.core.wire.tensors import (
    ITEM_BYTES,
    MAX_TENSORS,
    Tensor,
    decode_bundle,
    encode_bundle,
)

_DESCRIPTORS = {
    name: f"{'|' if size == 1 else '<'}{'b' if name == 'bool' else name[0]}{size}"
    for name, size in ITEM_BYTES.items()
}
_DTYPES = {descriptor: name for name, descriptor in _DESCRIPTORS.items()}
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_ALIGN = 64
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<|][biuf][1248])', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,13},? ?)*)\), \} *\n"
)

# ZIP (PKWARE's APPNOTE, 4.3 and 4.5.3). ZIP64 throughout, even where it is not needed, so that
# there is one layout and not two.
_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_EXTRA = struct.Struct("<2H2Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_CENTRAL_EXTRA = struct.Struct("<2H3Q")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC = b"PK\x03\x04"
_VERSION = 45
_MADE_ON_UNIX = 3 << 8 | _VERSION
_MODE = 0o100644 << 16
_FLAGS = 0
_STORED = 0
_TIME = 0
_DATE = 1 << 5 | 1
_IN_EXTRA = 0xFFFFFFFF
# Names and headers of one tensor, in its member and in the directory together.
_MOST_AROUND_A_TENSOR = 16 * 1024


def outputs_path(directory: Path, unit: int) -> Path:
    """Where the outputs of ``unit`` lie in a results folder: ``outputs/000042.npz``."""
    return directory / "outputs" / f"{unit:06d}.npz"


def write_outputs(directory: Path, unit: int, bundle: bytes) -> Path:
    """Keep the canonical output ``bundle`` of ``unit`` in the results folder ``directory``.

    Durable when it returns, the whole file or none; an earlier one is replaced. Raises
    :class:`Malformed` if ``bundle`` is no canonical bundle, :class:`P2pfleetError` if the folder
    cannot be written.
    """
    assert 0 <= unit < MAX_UNITS
    tensors = decode_bundle(bundle, MAX_BLOB_BYTES)
    path = outputs_path(directory, unit)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(directory.absolute().parent)
            _sync_folder(directory)
        try:
            with part.open("xb") as stream:
                for piece in _file_pieces(tensors):
                    stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise P2pfleetError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Make room or choose another folder, and ask for the results again.",
        ) from error
    return path


def read_outputs_file(path: Path, limit: int = MAX_BLOB_BYTES) -> bytes:
    """The canonical bundle (at most ``limit`` bytes) that :func:`write_outputs` wrote to ``path``.

    Its ``digest_of`` is the digest that the votes are for. Raises :class:`P2pfleetError` (exit code
    DAMAGED) if any byte of the file is not as :func:`write_outputs` writes it.
    """
    with open_regular(path) as stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            if size > limit + (MAX_TENSORS + 1) * _MOST_AROUND_A_TENSOR:
                raise Malformed(f"{size} bytes are more than the {limit} allowed")
            tensors = _parse(stream, size)
            stream.seek(0)
            _compare(stream, tensors)
        except (Malformed, OSError) as error:
            raise P2pfleetError(
                f"{path} is not as p2pfleet writes outputs: {error}.",
                "It was changed or damaged: fetch the results of the job again.",
                ExitCode.DAMAGED,
            ) from error
    bundle = encode_bundle(tensors)
    if len(bundle) > limit:
        raise P2pfleetError(
            f"{path} holds {len(bundle)} bytes of outputs where at most {limit} are allowed.",
            "It does not belong to this job: fetch the results of the job again.",
            ExitCode.DAMAGED,
        )
    return bundle


# ---- writing ---------------------------------------------------------------------------------


def _file_pieces(tensors: tuple[Tensor, ...]) -> Iterator[bytes]:
    """The bytes of the file, in pieces; elements are handed on without a copy."""
    directory = []
    offset = 0
    for tensor in tensors:
        header = _npy_header(tensor)
        name = _member_name(tensor.name)
        crc = zlib.crc32(tensor.data, zlib.crc32(header))
        size = len(header) + len(tensor.data)
        local = (
            _LOCAL.pack(
                _LOCAL_MAGIC, _VERSION, _FLAGS, _STORED, _TIME, _DATE, crc, _IN_EXTRA, _IN_EXTRA,
                len(name), _LOCAL_EXTRA.size,
            )
            + name
            + _LOCAL_EXTRA.pack(1, _LOCAL_EXTRA.size - 4, size, size)
        )  # fmt: skip
        directory.append(
            _CENTRAL.pack(
                b"PK\x01\x02", _MADE_ON_UNIX, _VERSION, _FLAGS, _STORED, _TIME, _DATE, crc,
                _IN_EXTRA, _IN_EXTRA, len(name), _CENTRAL_EXTRA.size, 0, 0, 0, _MODE, _IN_EXTRA,
            )
            + name
            + _CENTRAL_EXTRA.pack(1, _CENTRAL_EXTRA.size - 4, size, size, offset)
        )  # fmt: skip
        yield local
        yield header
        yield tensor.data
        offset += len(local) + size
    central = b"".join(directory)
    count = len(tensors)
    yield central
    yield _END_64.pack(
        b"PK\x06\x06", _END_64.size - 12, _MADE_ON_UNIX, _VERSION, 0, 0, count, count,
        len(central), offset,
    )  # fmt: skip
    yield _LOCATOR_64.pack(b"PK\x06\x07", 0, offset + len(central), 1)
    yield _END.pack(b"PK\x05\x06", 0, 0, count, count, len(central), _IN_EXTRA, 0)


def _member_name(name: str) -> bytes:
    return (quote(name, safe="") + ".npy").encode("ascii")


def _npy_header(tensor: Tensor) -> bytes:
    text = (
        f"{{'descr': '{_DESCRIPTORS[tensor.dtype]}', 'fortran_order': False, "
        f"'shape': {tensor.shape!r}, }}"
    ).encode("ascii")
    unpadded = len(_NPY_MAGIC) + 2 + len(text) + 1
    text += b" " * (-unpadded % _NPY_ALIGN) + b"\n"
    return _NPY_MAGIC + struct.pack("<H", len(text)) + text


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading ---------------------------------------------------------------------------------


def _parse(stream: BinaryIO, size: int) -> tuple[Tensor, ...]:
    """The tensors in the members at the head of the file.

    Finds what a good file holds and stays within the bounds of a bad one; whether the file is good
    is for :func:`_compare` to say.
    """
    tensors: list[Tensor] = []
    names = set()
    while len(start := stream.read(_LOCAL.size)) == _LOCAL.size and start[:4] == _LOCAL_MAGIC:
        name_length, extra_length = _LOCAL.unpack(start)[-2:]
        if len(tensors) == MAX_TENSORS or extra_length != _LOCAL_EXTRA.size:
            raise Malformed("a member that does not belong there")
        name = _take(stream, size, name_length)
        member_bytes = _LOCAL_EXTRA.unpack(_take(stream, size, extra_length))[-1]
        header = _take(stream, size, len(_NPY_MAGIC) + 2)
        header_bytes = int.from_bytes(header[-2:], "little")
        tensor = _tensor(name, _take(stream, size, header_bytes))
        data_bytes = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        if member_bytes != len(header) + header_bytes + data_bytes:
            raise Malformed(f"tensor {tensor.name!r} has not the length of its shape")
        if tensor.name in names:
            raise Malformed(f"two tensors are named {tensor.name!r}")
        names.add(tensor.name)
        tensors.append(msgspec.structs.replace(tensor, data=_take(stream, size, data_bytes)))
    return tuple(tensors)


def _tensor(member_name: bytes, header: bytes) -> Tensor:
    """The tensor that a member's name and its npy header tell of, still without its elements."""
    match = _NPY_HEADER.fullmatch(header)
    dtype = _DTYPES.get(match[1].decode("ascii")) if match else None
    if match is None or dtype is None:
        raise Malformed("a member without the header of a tensor")
    try:
        name = unquote(member_name.decode("ascii").removesuffix(".npy"), errors="strict")
        shape = [int(axis) for axis in match[2].split(b",") if axis.strip()]
        return msgspec.convert((name, dtype, shape, b""), Tensor)
    except ValueError as error:
        raise Malformed(str(error)[:200]) from error


def _take(stream: BinaryIO, size: int, count: int) -> bytes:
    # Against what is left of the file, not what it claims: no claim makes us take memory.
    if count > size - stream.tell():
        raise Malformed("it ends early")
    data = stream.read(count)
    if len(data) != count:
        raise Malformed("it ends early")
    return data


def _compare(stream: BinaryIO, tensors: tuple[Tensor, ...]) -> None:
    offset = 0
    for piece in _file_pieces(tensors):
        if stream.read(len(piece)) != piece:
            raise Malformed(f"it differs from its own contents after byte {offset}")
        offset += len(piece)
    if stream.read(1):
        raise Malformed(f"bytes follow its end at byte {offset}")
