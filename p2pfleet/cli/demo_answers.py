"""The right answers to the demo's job: from onnxruntime in this process, and from the labels."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from p2pfleet.adapters.inputs import Array, arrays_from_bundle
from p2pfleet.cli.plain_answers import kept_answer, right_answers


class Comparison(msgspec.Struct, frozen=True):
    """``equal``: every unit's outputs are bit for bit those of plain onnxruntime. ``accuracy``: the
    share of all images whose certified answer is the label."""

    images: int
    equal: bool
    accuracy: float


def compare(results: Path, job: Path, unit_images: int) -> Comparison:
    """Hold a results folder against the job's folder (model, images, labels).

    Unit ``u`` holds images ``u * unit_images`` and following; a unit without an answer is wrong.
    """
    labels = np.load(job / "labels.npy", allow_pickle=False)
    expected = right_answers(job / "digits.onnx", (job / "digits.npz",), f"0:{unit_images}")
    equal = True
    right = 0
    for unit, answer in enumerate(expected):
        found = kept_answer(results, unit)
        equal = equal and found == answer
        if found is not None:
            right += _hits(found, labels[unit * unit_images : (unit + 1) * unit_images])
    return Comparison(len(labels), equal, right / len(labels))


def _hits(bundle: bytes, labels: Array) -> int:
    answers = arrays_from_bundle(bundle, len(bundle)).get("label")
    if answers is None or answers.shape != labels.shape:
        return 0
    return int((answers == labels).sum())
