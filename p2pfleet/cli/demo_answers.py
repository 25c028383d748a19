"""The right answers to the demo's job: from onnxruntime in this process, and from the labels."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from p2pfleet.adapters.inputs import Array, arrays_from_bundle, outputs_path, read_outputs_file
from p2pfleet.core.errors import Malformed, P2pfleetError

MAX_OUTPUT_BYTES = 64 * 2**20


class Comparison(msgspec.Struct, frozen=True):
    """``equal``: every unit's outputs are bit for bit those of plain onnxruntime. ``accuracy``: the
    share of all images whose certified answer is the label."""

    images: int
    equal: bool
    accuracy: float


def compare(results: Path, job: Path, units: int, unit_images: int) -> Comparison:
    """Hold a results folder against the job's folder (model, images, labels).

    Unit ``u`` holds images ``u * unit_images`` and following; a unit without an answer is wrong.
    """
    with np.load(job / "digits.npz", allow_pickle=False) as archive:
        images = archive["image"]
    labels = np.load(job / "labels.npy", allow_pickle=False)
    session = onnxruntime.InferenceSession(
        str(job / "digits.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    equal = True
    right = 0
    for unit in range(units):
        part = slice(unit * unit_images, (unit + 1) * unit_images)
        expected = dict(zip(names, session.run(names, {"image": images[part]}), strict=True))
        found = _outputs(results, unit)
        equal = equal and _same(found, expected)
        answers = found.get("label")
        if answers is not None and answers.shape == labels[part].shape:
            right += int((answers == labels[part]).sum())
    return Comparison(len(images), equal, right / len(images))


def _outputs(results: Path, unit: int) -> dict[str, Array]:
    path = outputs_path(results, unit)
    try:
        return dict(arrays_from_bundle(read_outputs_file(path), MAX_OUTPUT_BYTES))
    except (P2pfleetError, Malformed):
        return {}


def _same(found: dict[str, Array], expected: dict[str, Array]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )
