"""The demo's job: real images, a model with known accuracy, and units that add up to the whole."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from p2pfleet.adapters.inputs import (
    arrays_from_bundle,
    parse_split,
    read_input_file,
    read_outputs_file,
    units_from_files,
    write_outputs,
)
from p2pfleet.core.wire.tensors import Tensor, encode_bundle
from p2pfleet.ports import ModelSignature, TensorSpec

JOB = Path(__file__).parents[3] / "testnet" / "jobs" / "digits"
SIGNATURE = ModelSignature(
    (TensorSpec("image", "uint8", (None, 1, 8, 8)),), (TensorSpec("label", "int64", (None,)),)
)
Level = onnxruntime.GraphOptimizationLevel


def session(level: object = Level.ORT_ENABLE_EXTENDED) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(
        JOB / "digits.onnx", options, providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return read_input_file(JOB / "digits.npz", SIGNATURE)["image"]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.load(JOB / "labels.npy", allow_pickle=False)


def test_the_files_are_what_the_readme_says(images: np.ndarray, labels: np.ndarray) -> None:
    assert (images.dtype, images.shape) == (np.uint8, (1797, 1, 8, 8))
    assert images.max() == 16
    assert (labels.dtype, labels.shape) == (np.int64, (1797,))
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert sum(path.stat().st_size for path in JOB.iterdir() if path.is_file()) < 500_000


def test_the_model_is_made_of_standard_operators_that_the_oldest_runtime_reads() -> None:
    model = onnx.load(JOB / "digits.onnx")

    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert {node.domain for node in model.graph.node} == {""}
    (given,), (answer,) = session().get_inputs(), session().get_outputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(uint8)", ["n", 1, 8, 8])
    assert (answer.name, answer.type, answer.shape) == ("label", "tensor(int64)", ["n"])


def test_the_model_reads_the_digits_as_well_as_the_readme_says(
    images: np.ndarray, labels: np.ndarray
) -> None:
    (read,) = session().run(["label"], {"image": images})

    right = read == labels
    assert (right.sum(), right[:1500].sum(), right[1500:].sum()) == (1791, 1500, 291)
    readme = (JOB / "README.md").read_text()
    assert "1,791 of them (99.67 %)" in readme
    assert "291 right (97.98 %)" in readme


def test_whole_numbers_give_one_answer_however_the_graph_is_run(images: np.ndarray) -> None:
    def sums(level: object) -> np.ndarray:
        model = onnx.load(JOB / "digits.onnx")
        model.graph.output.append(
            onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 10])
        )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        runtime = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return runtime.run(["logits"], {"image": images})[0]

    plain = sums(Level.ORT_DISABLE_ALL)

    assert np.array_equal(plain, np.rint(plain))
    assert np.abs(plain).max() < 2**24
    for level in (Level.ORT_ENABLE_BASIC, Level.ORT_ENABLE_EXTENDED, Level.ORT_ENABLE_ALL):
        assert np.array_equal(sums(level), plain)


def test_36_units_of_50_give_what_the_whole_batch_gives(images: np.ndarray, tmp_path: Path) -> None:
    runtime = session()
    names, answers = [], []
    units = units_from_files([JOB / "digits.npz"], SIGNATURE, parse_split("0:50"))
    for number, (name, bundle) in enumerate(units):
        names.append(name)
        (label,) = runtime.run(["label"], arrays_from_bundle(bundle, 10_000))
        result = encode_bundle((Tensor("label", "int64", label.shape, label.tobytes()),))
        path = write_outputs(tmp_path, number, result)
        answers.append(arrays_from_bundle(read_outputs_file(path), 10_000)["label"])

    assert len(names) == 36
    assert (names[0], names[-1]) == ("digits[0:50]", "digits[1750:1797]")
    assert [len(answer) for answer in answers] == [50] * 35 + [47]
    (whole,) = runtime.run(["label"], {"image": images})
    assert np.array_equal(np.concatenate(answers), whole)


def test_the_images_and_labels_are_the_published_ones(
    images: np.ndarray, labels: np.ndarray
) -> None:
    # Taken from scikit-learn's load_digits; `make.py --check` compares with it directly.
    assert sha256(images.tobytes()).hexdigest() == (
        "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    )
    assert sha256(labels.tobytes()).hexdigest() == (
        "a3c91c262eddcf7ba8f0e37507c30284493c9b20412ffe4af30d536401f7ba21"
    )
