"""Tensor bundles: how a unit's inputs and outputs are written down.

A bundle is the canonical MessagePack array of ``[name, dtype, shape, data]``, in the order of the
model's own inputs or outputs, ``data`` being the elements in C order, little-endian. The digest of
a result is the SHA-256 of its bundle: it covers names, dtypes, shapes and every byte, and equal
digests mean equal bundles.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Digest, sha256
from p2pfleet.core.wire.codec import decode, encode

DType = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
]  # fmt: skip
ITEM_BYTES: dict[str, int] = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2,
    "uint32": 4, "uint64": 8, "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
MAX_TENSORS = 64
MAX_RANK = 16


class Tensor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One named tensor; ``data`` holds ``prod(shape)`` elements in C order, little-endian."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    dtype: DType
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**40)], ...], Meta(max_length=MAX_RANK)]
    data: bytes


Bundle = Annotated[tuple[Tensor, ...], Meta(max_length=MAX_TENSORS)]


def encode_bundle(tensors: tuple[Tensor, ...]) -> bytes:
    """The canonical bytes of a bundle."""
    return encode(tensors)


def decode_bundle(data: bytes, limit: int) -> tuple[Tensor, ...]:
    """The tensors in ``data`` (at most ``limit`` bytes). Raises :class:`Malformed`."""
    tensors: tuple[Tensor, ...] = decode(data, Bundle, limit)
    names = set()
    for tensor in tensors:
        if tensor.name in names:
            raise Malformed(f"two tensors are named {tensor.name!r}")
        names.add(tensor.name)
        expected = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        if len(tensor.data) != expected:
            raise Malformed(
                f"tensor {tensor.name!r} holds {len(tensor.data)} bytes where its shape "
                f"{list(tensor.shape)} of {tensor.dtype} needs {expected}"
            )
        if tensor.dtype == "bool" and tensor.data.translate(None, b"\x00\x01"):
            raise Malformed(f"tensor {tensor.name!r} is bool but holds bytes other than 0 and 1")
    return tensors


def digest_of(bundle: bytes) -> Digest:
    """The digest of a result: SHA-256 over its canonical bundle."""
    return Digest(sha256(bundle))
