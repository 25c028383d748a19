"""Work units made of input files: one file is one unit, unless it is cut along an axis.

How a cut along axis A into pieces of S treats each input of the model:

* the model leaves axis A free: the input is cut; all that are cut must have the same length there;
* the model fixes axis A at n and the array has n there: it is repeated whole in every unit;
* the model fixes axis A at S, and the array is longer: it is cut, and its length must be a multiple
  of S, since the model would not take a smaller last piece;
* the input has no axis A (a scalar, or fewer axes): it is repeated whole in every unit.

Anything else does not fit the model and is refused. Where an input is cut whose axis is free, the
last piece may be smaller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from p2pfleet.adapters.inputs.bundles import Array, bundle_from_arrays
from p2pfleet.adapters.inputs.files import MAX_INPUT_BYTES, read_input_file
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.job import MAX_UNITS
from p2pfleet.core.wire.tensors import MAX_RANK
from p2pfleet.ports import ModelSignature, TensorSpec

_SPLIT_TEXT = re.compile(r"([0-9]{1,3})(?::([0-9]{1,12}))?", re.ASCII)


class Split(msgspec.Struct, frozen=True):
    """Cut inputs along ``axis`` (counted from 0) into pieces of ``size`` (the last may be less)."""

    axis: int
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.axis < MAX_RANK:
            raise _split_error(
                f"there is no axis {self.axis} to split along: axes count from 0 to {MAX_RANK - 1}."
            )
        if self.size < 1:
            raise _split_error("the pieces of a split cannot be empty.")


def parse_split(text: str) -> Split:
    """The split written as ``AXIS[:SIZE]``. Raises :class:`P2pfleetError`."""
    match = _SPLIT_TEXT.fullmatch(text)
    if match is None:
        raise _split_error(f"{text[:80]!r} is not a split.")
    return Split(int(match[1]), int(match[2]) if match[2] else 1)


def units_from_files(
    paths: Iterable[Path],
    signature: ModelSignature,
    split: Split | None = None,
    max_bytes: int = MAX_INPUT_BYTES,
) -> Iterator[tuple[str, bytes]]:
    """The (name, canonical input bundle) of each work unit, in the order of ``paths``.

    A unit is named after its file, ``digits``, or its range in it, ``digits[0:50]``; names are for
    people and may repeat. One file (``max_bytes`` in memory at most) and one bundle are held at a
    time. Raises :class:`P2pfleetError` while iterating, naming the file.
    """
    count = 0
    for path in paths:
        arrays = read_input_file(path, signature, max_bytes)
        try:
            for part, pieces in _pieces(arrays, signature, split):
                count += 1
                if count > MAX_UNITS:
                    raise P2pfleetError(
                        f"these are more than {MAX_UNITS} units, the most that a job may have.",
                        "Make larger pieces with --split AXIS:SIZE, or publish several jobs.",
                    )
                yield path.stem + part, bundle_from_arrays(pieces, signature)
        except P2pfleetError as error:
            raise P2pfleetError(f"{path}: {error.message}", error.advice, error.code) from error


def _pieces(
    arrays: dict[str, Array], signature: ModelSignature, split: Split | None
) -> Iterator[tuple[str, dict[str, Array]]]:
    if split is None:
        yield "", arrays
        return
    cut = [spec for spec in signature.inputs if _is_cut(arrays[spec.name], spec, split)]
    if not cut:
        # The file holds exactly one piece for a model whose axis is fixed at the piece's size.
        if any(
            split.axis < len(spec.shape) and spec.shape[split.axis] == split.size
            for spec in signature.inputs
        ):
            yield f"[0:{split.size}]", arrays
            return
        raise P2pfleetError(
            f"the model leaves axis {split.axis} of no input free, so nothing can be split there.",
            "Split along another axis, or leave --split out.",
        )
    length = _common_length(cut, arrays, split)
    index: list[slice] = [slice(None)] * split.axis
    for start in range(0, length, split.size):
        stop = min(start + split.size, length)
        pieces = dict(arrays)
        for spec in cut:
            pieces[spec.name] = arrays[spec.name][(*index, slice(start, stop))]
        yield f"[{start}:{stop}]", pieces


def _is_cut(array: Array, spec: TensorSpec, split: Split) -> bool:
    if split.axis >= len(spec.shape):
        return False
    if array.ndim <= split.axis:
        # It has too few axes for the model; bundle_from_arrays says so in full.
        return False
    fixed, length = spec.shape[split.axis], array.shape[split.axis]
    if fixed is None:
        return True
    if fixed == length:
        return False
    if fixed != split.size:
        raise P2pfleetError(
            f"the model fixes axis {split.axis} of input {spec.name!r} at {fixed}, and the file "
            f"has {length} there: pieces of {split.size} do not fit.",
            f"Split with --split {split.axis}:{fixed}.",
        )
    if length % fixed:
        raise P2pfleetError(
            f"the model fixes axis {split.axis} of input {spec.name!r} at {fixed}, and the file's "
            f"{length} leave a last piece of {length % fixed}.",
            f"Leave {length % fixed} out or add {fixed - length % fixed}, or export the model "
            "with this axis free.",
        )
    return True


def _common_length(cut: list[TensorSpec], arrays: dict[str, Array], split: Split) -> int:
    lengths = {spec.name: arrays[spec.name].shape[split.axis] for spec in cut}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise P2pfleetError(
            f"the inputs to be split differ in length along axis {split.axis}: {listed}.",
            "Give them one length. An input that is the same for every unit must have a fixed "
            "axis there in the model.",
        )
    length: int = next(iter(lengths.values()))
    if length == 0:
        raise P2pfleetError(
            f"there is nothing to split: axis {split.axis} has length 0.",
            "Write a file with at least one row.",
        )
    return length


def _split_error(message: str) -> P2pfleetError:
    return P2pfleetError(
        message,
        "Write AXIS or AXIS:SIZE with whole numbers, as in --split 0:50 for units of 50 rows.",
        ExitCode.USAGE,
    )
