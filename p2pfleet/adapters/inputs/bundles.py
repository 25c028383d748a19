"""Arrays as canonical tensor bundles, checked against what a model wants.

Nothing is converted silently: a float64 array for a float32 model is an error with advice, because
a rounding that nobody asked for would be certified as the answer. Only what leaves every value as
it is happens here: byte order, memory layout, and bools other than 0 and 1 becoming 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from p2pfleet.core.errors import Malformed, P2pfleetError
from p2pfleet.core.model.job import MAX_BLOB_BYTES
from p2pfleet.core.wire.tensors import (
    ITEM_BYTES,
    MAX_RANK,
    MAX_TENSORS,
    Tensor,
    decode_bundle,
    encode_bundle,
)
from p2pfleet.ports import ModelSignature, TensorSpec

Array = npt.NDArray[Any]

# MessagePack counts the bytes of one value in 32 bits.
MAX_TENSOR_BYTES = 2**32 - 1
# As the type of a tensor's name has it.
MAX_NAME_LENGTH = 256
_NAMES_SHOWN = 8


def describe(dtype: str, shape: Iterable[int | None]) -> str:
    """A dtype and a shape for people: ``float32[?,3]``, ``?`` being a free axis."""
    return f"{dtype}[{','.join('?' if axis is None else str(axis) for axis in shape)}]"


def check_names(names: Collection[str], signature: ModelSignature) -> None:
    """Raise :class:`P2pfleetError` unless ``names`` are exactly the model's inputs."""
    wanted = {spec.name for spec in signature.inputs}
    missing = [spec.name for spec in signature.inputs if spec.name not in names]
    extra = sorted(name for name in names if name not in wanted)
    if not missing and not extra:
        return
    faults = [f"{_listed(missing)} missing"] if missing else []
    faults += [f"{_listed(extra)} not an input of the model"] if extra else []
    wants = ", ".join(
        f"{spec.name!r} {describe(spec.dtype, spec.shape)}"
        for spec in signature.inputs[:_NAMES_SHOWN]
    )
    more = ", ..." if len(signature.inputs) > _NAMES_SHOWN else ""
    raise P2pfleetError(
        f"the inputs do not fit the model: {'; '.join(faults)}.",
        f"The model wants {wants}{more}. Name the arrays so: np.savez('inputs.npz', **{{name: "
        "array}).",
    )


def bundle_from_arrays(arrays: Mapping[str, Array], signature: ModelSignature) -> bytes:
    """The canonical bundle of one unit's inputs, in the order of the model's inputs.

    Names, dtypes, ranks and fixed axes must be what ``signature`` says. Any memory layout and byte
    order will do. Raises :class:`P2pfleetError`, which names what the model wants and what came.
    """
    check_names(arrays, signature)
    if len(signature.inputs) > MAX_TENSORS:
        raise P2pfleetError(
            f"the model has {len(signature.inputs)} inputs; a unit carries at most {MAX_TENSORS}.",
            "Join some of them into one tensor inside the model.",
        )
    if not all(1 <= len(spec.name) <= MAX_NAME_LENGTH for spec in signature.inputs):
        raise P2pfleetError(
            f"the model has an input whose name is empty or longer than {MAX_NAME_LENGTH}.",
            "Give it a shorter name when exporting the model.",
        )
    bundle = encode_bundle(tuple(_tensor(arrays[spec.name], spec) for spec in signature.inputs))
    if len(bundle) > MAX_BLOB_BYTES:
        raise P2pfleetError(
            f"one unit's inputs are {len(bundle)} bytes; at most {MAX_BLOB_BYTES} are allowed.",
            "Split them into smaller units: --split AXIS:SIZE.",
        )
    return bundle


def arrays_from_bundle(bundle: bytes, limit: int) -> dict[str, Array]:
    """The arrays of a canonical bundle of at most ``limit`` bytes, in its order, as own copies.

    Little-endian, C order, writable. Raises :class:`Malformed`.
    """
    return {tensor.name: _array(tensor) for tensor in decode_bundle(bundle, limit)}


def _tensor(given: Array, spec: TensorSpec) -> Tensor:
    array = _plain_array(given, spec)
    name, wants = spec.name, describe(spec.dtype, spec.shape)
    comes = describe(array.dtype.name, array.shape)
    fault = f"input {name!r} is {comes}, the model wants {wants}"
    if spec.dtype not in ITEM_BYTES:
        raise P2pfleetError(
            f"the model wants {wants} for input {name!r}; no unit can carry this type.",
            f"Units carry {', '.join(ITEM_BYTES)}.",
        )
    if array.dtype.name not in ITEM_BYTES:
        raise P2pfleetError(
            f"{fault}: this is not an array of numbers.",
            f"Objects, strings, dates and records are not taken. Units carry "
            f"{', '.join(ITEM_BYTES)}.",
        )
    if array.dtype.name != spec.dtype:
        raise P2pfleetError(
            f"{fault}: the types differ.",
            f"Convert it with array.astype({spec.dtype!r}), if that keeps what you mean.",
        )
    if array.ndim != len(spec.shape):
        raise P2pfleetError(
            f"{fault}: the number of axes differs.",
            "Add an axis with array[None], or take one off with array.reshape(...).",
        )
    axes = zip(spec.shape, array.shape, strict=True)
    if any(want is not None and want != have for want, have in axes):
        raise P2pfleetError(
            f"{fault}: the fixed axes differ.",
            "Reshape or cut it, or cut a file of many into units with --split AXIS:SIZE.",
        )
    if array.ndim > MAX_RANK or array.nbytes > MAX_TENSOR_BYTES:
        raise P2pfleetError(
            f"input {name!r} is {comes}: a tensor has at most {MAX_RANK} axes and "
            f"{MAX_TENSOR_BYTES} bytes.",
            "Split it into smaller units: --split AXIS:SIZE.",
        )
    if spec.dtype == "bool":
        array = array.view(np.uint8) != 0
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return Tensor(name, spec.dtype, array.shape, little.tobytes(order="C"))  # type: ignore[arg-type]


def _plain_array(given: Array, spec: TensorSpec) -> Array:
    # A masked array's hidden values would be sent, and a list has whatever type numpy guesses.
    if isinstance(given, np.ma.MaskedArray) or not isinstance(given, np.ndarray | np.generic):
        raise P2pfleetError(
            f"input {spec.name!r} is a {type(given).__name__}, the model wants a numpy array "
            f"{describe(spec.dtype, spec.shape)}.",
            f"Make one with np.asarray(..., dtype={spec.dtype!r}) "
            "(of a masked array: its .filled(value)).",
        )
    return np.asarray(given)


def _array(tensor: Tensor) -> Array:
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    try:
        array: Array = np.empty(tensor.shape, dtype)
    except (ValueError, MemoryError) as error:
        # An empty tensor may declare axes whose product no machine can count.
        raise Malformed(f"tensor {tensor.name!r}: {error}") from error
    if array.size:
        array.reshape(-1)[:] = np.frombuffer(tensor.data, dtype)
    return array


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{shown}{more} {'are' if len(names) > 1 else 'is'}"
