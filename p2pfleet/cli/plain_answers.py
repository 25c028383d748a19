"""What plain onnxruntime says to a job's units, in this process, without p2pfleet in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnxruntime

from p2pfleet.adapters.inputs import (
    Array,
    arrays_from_bundle,
    bundle_from_arrays,
    outputs_path,
    parse_split,
    read_outputs_file,
    units_from_files,
)
from p2pfleet.adapters.sandbox.inside.model import Model
from p2pfleet.core.errors import Malformed, P2pfleetError
from p2pfleet.core.model.job import Comparison
from p2pfleet.ports import ModelSignature, TensorSpec
from p2pfleet.runtime.comparison import same_answer

MAX_BUNDLE_BYTES = 2**30


class PlainModel:
    """A model as plain onnxruntime runs it: one session, the CPU, nothing else set."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        read = Model(lambda: data)  # its signature, as volunteers see it
        self.signature = ModelSignature(
            *(
                tuple(TensorSpec(one.name, one.dtype, tuple(one.shape)) for one in specs)
                for specs in (read.inputs, read.outputs)
            )
        )
        self._session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """The outputs by name."""
        names = [spec.name for spec in self.signature.outputs]
        return dict(zip(names, self._session.run(names, inputs), strict=True))


def right_answers(model: Path, inputs: tuple[Path, ...], split: str | None) -> Iterator[bytes]:
    """The canonical bundle of the outputs of each unit, in the order of their numbers."""
    plain = PlainModel(model)
    outputs = ModelSignature(plain.signature.outputs, ())
    cut = None if split is None else parse_split(split)
    for _, bundle in units_from_files(inputs, plain.signature, cut):
        values = plain.run(arrays_from_bundle(bundle, len(bundle)))
        yield bundle_from_arrays(values, outputs)


def wrong_units(results: Path, right: Iterator[bytes], comparison: Comparison) -> list[int]:
    """The units of a results folder that have an answer, and another one than the right one."""
    wrong = []
    for unit, answer in enumerate(right):
        found = kept_answer(results, unit)
        if found is not None and not same_answer(found, answer, comparison):
            wrong.append(unit)
    return wrong


def kept_answer(results: Path, unit: int) -> bytes | None:
    """The bundle that a results folder holds for a unit; ``None`` without one that can be read."""
    try:
        return read_outputs_file(outputs_path(results, unit), MAX_BUNDLE_BYTES)
    except (P2pfleetError, Malformed, FileNotFoundError):
        return None
