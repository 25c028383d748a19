"""The numeric class: the same wherever the arithmetic is, and another one where it is not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from p2pfleet.adapters.sandbox.inside import numeric
from p2pfleet.adapters.sandbox.inside.model import session_options
from p2pfleet.adapters.sandbox.inside.numeric import SUITE, numeric_class, probe_results
from p2pfleet.adapters.sandbox.inside.numeric_models import probes
from p2pfleet.adapters.sandbox.inside.onnx_writer import node, write_model
from p2pfleet.adapters.sandbox.inside.probe_values import bytes_of, extremes, floats, integers

INSIDE = Path(numeric.__file__).parent
LIBRARIES = Path(np.__file__).parents[1]
IN_A_CHILD = """
import importlib, resource, sys, types
package = types.ModuleType("p2pfleet_inside")
package.__path__ = [sys.argv[1]]
sys.modules["p2pfleet_inside"] = package
sys.path.append(sys.argv[2])
FIRST
numeric = importlib.import_module("p2pfleet_inside.numeric")
held = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
limit = int(held.split()[1]) * 1024 + int(sys.argv[3]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(numeric.numeric_class().hex())
"""
FLUSH = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
model = importlib.import_module("p2pfleet_inside.warm").WARM_MODEL
onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
"""


WARM = 'importlib.import_module("p2pfleet_inside.warm").warm_up()'


def in_a_child(memory_mb: int, first: str = WARM) -> str:
    """The class that a bare process finds which may take so much more memory once it is warm."""
    script = IN_A_CHILD.replace("FIRST", first)
    done = subprocess.run(
        [
            sys.executable, "-I", "-S", "-B", "-c", script, str(INSIDE), str(LIBRARIES),
            str(memory_mb),
        ],
        env={"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_every_process_of_a_machine_finds_the_same_class_in_little_memory() -> None:
    here = numeric_class().hex()
    assert numeric_class().hex() == here
    assert in_a_child(32) == here
    assert in_a_child(256) == here


def test_the_suite_is_quick() -> None:
    took = []
    for _ in range(3):
        started = time.process_time()
        numeric_class()
        took.append(time.process_time() - started)
    assert min(took) < 0.3


def test_the_suite_is_what_its_name_stands_for() -> None:
    """Whoever changes a model or a value has to give the suite another name."""
    digest = hashlib.sha256()
    for probe in probes():
        digest.update(probe.name.encode() + probe.model)
        for name, value in probe.feeds.items():
            digest.update(f"{name}{value.dtype}{value.shape}".encode() + value.tobytes())
    assert (SUITE, digest.hexdigest()) == (b"p2pfleet-numeric-1", PINNED)


PINNED = "1c07e5e756d16382b5542dfc093fd0fab120d10ea76d804d3331a5bd9eee1f73"


# ---- it moves when the arithmetic does -------------------------------------------------------


def with_options(change: Any) -> bytes:
    def session(model: bytes) -> ort.InferenceSession:
        options = session_options()
        change(options)
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    return numeric_class(session)


def test_other_session_options_that_compute_otherwise_are_another_class() -> None:
    here = numeric_class()

    def as_they_are(_: ort.SessionOptions) -> None:
        pass

    # Flushed subnormals are set for the whole process, therefore in one of its own.
    assert in_a_child(256, FLUSH) != here.hex()

    def optimise_nothing(options: ort.SessionOptions) -> None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL

    def optimise_all(options: ort.SessionOptions) -> None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL

    assert with_options(as_they_are) == here
    assert with_options(optimise_nothing) != here
    assert with_options(optimise_all) != here


class Recorded:
    """Sessions that give recorded outputs, one of which may be changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values = dict(probe_results())
        self._probes = list(probes())
        monkeypatch.setattr(numeric, "probes", lambda: self._probes)

    def numeric_class(self, name: str = "", value: Any = None) -> bytes:
        """The class of these outputs, the one called ``name`` being ``value``."""
        left = iter(self._probes)

        def session(model: bytes) -> Any:
            probe = next(left)
            assert probe.model == model
            outputs = [one for one in self.values if one.rpartition("/")[0] == probe.name]

            def run(wanted: list[str], feeds: dict[str, Any]) -> list[Any]:
                assert feeds.keys() == probe.feeds.keys()
                assert wanted == [one.rpartition("/")[2] for one in outputs]
                return [value if one == name else self.values[one] for one in outputs]

            infos = [SimpleNamespace(name=one.rpartition("/")[2]) for one in outputs]
            return SimpleNamespace(get_outputs=lambda: infos, run=run)

        return numeric_class(session)


def next_up(array: Any) -> Any:
    """``array`` with its last usual element one step further on."""
    changed = array.copy()
    flat = changed.reshape(-1)
    last = int(np.flatnonzero(np.isfinite(flat))[-1])
    if array.dtype.kind == "f":
        flat[last] = np.nextafter(flat[last], array.dtype.type(np.inf))
    else:
        flat[last] ^= 1
    return changed


def test_one_bit_of_any_output_makes_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    classes = {recorded.numeric_class(name, next_up(v)) for name, v in recorded.values.items()}
    assert len(recorded.values) > 150
    assert len(classes) == len(recorded.values)
    assert recorded.numeric_class() == numeric_class()
    assert numeric_class() not in classes


def test_shapes_dtypes_and_the_sign_of_zero_count_but_not_which_nan_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Recorded(monkeypatch)
    name = "element-wise, extreme/sqrt"
    value = recorded.values[name]
    here = recorded.numeric_class()
    nans = value.copy()
    nans[np.isnan(nans)] = np.array([0xFFC12345], np.uint32).view(np.float32)
    assert nans.tobytes() != value.tobytes()
    assert recorded.numeric_class(name, nans) == here
    assert recorded.numeric_class(name, value.reshape(2, -1)) != here
    assert recorded.numeric_class(name, value.view(np.int32)) != here
    assert recorded.numeric_class(name, np.where(value == 0, np.abs(value), value)) != here
    assert recorded.numeric_class(name, value.astype(">f4")) == here


# ---- what it is made of ----------------------------------------------------------------------


def test_models_are_written_as_onnx_itself_would() -> None:
    x, w = floats(1, 2, 3), floats(2, 3, 2)
    halves, whole = floats(3, 4, dtype="float16"), np.array(-5, np.int64)
    ours = write_model(
        [
            node("Gemm", "x w -", "y", alpha=0.75, transA=0),
            node("Resize", "y - s", "z", mode="linear", axes=(0, -1)),
        ],
        {"x": x},
        {"z": "float32"},
        {"w": w, "h": halves, "i": whole},
    )
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", ""], ["y"], alpha=0.75, transA=0),
            helper.make_node("Resize", ["y", "", "s"], ["z"], mode="linear", axes=[0, -1]),
        ],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(array, name)
            for name, array in (("w", w), ("h", halves), ("i", whole))
        ],
    )
    theirs = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    theirs.opset_import[0].ClearField("domain")  # the default, spelled out
    found = onnx.load_from_string(ours)
    # Attributes have no order.
    for proto in (found, theirs):
        for one in proto.graph.node:
            one.attribute.sort(key=lambda attribute: attribute.name)
    assert found.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )


def test_every_probe_is_a_valid_model() -> None:
    results = dict(probe_results())
    for probe in probes():
        proto = onnx.load_from_string(probe.model)
        # The suite leaves the shapes of its outputs to onnxruntime; the checker wants to see them.
        for output in proto.graph.output:
            found = results[f"{probe.name}/{output.name}"]
            kind = helper.np_dtype_to_tensor_dtype(found.dtype)
            output.CopyFrom(helper.make_tensor_value_info(output.name, kind, found.shape))
        onnx.checker.check_model(proto, full_check=True)


def test_values_are_exact_and_the_same_everywhere() -> None:
    # The first numbers of SplitMix64 with seed 0, as published with it.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert integers(0, 3, 32).tolist() == [value >> 32 for value in published]
    for dtype in ("float16", "float32", "float64"):
        values = floats(9, 1000, scale=4, dtype=dtype)
        assert values.dtype == dtype
        assert values.min() >= -4
        assert values.max() < 4
        assert abs(float(values.mean(dtype=np.float64))) < 0.3
        assert len(np.unique(values)) > 600
    assert {0, 255} <= set(bytes_of(1, 20, dtype="uint8").tolist())
    assert {-128, 127} <= set(bytes_of(1, 20, dtype="int8").tolist())
    edges = extremes()
    assert np.isnan(edges).any()
    assert np.isinf(edges).sum() == 2
    assert ((edges != 0) & (np.abs(edges) < np.finfo(np.float32).tiny)).any()


def test_whatever_goes_wrong_is_an_error_and_never_a_class() -> None:
    def broken(model: bytes) -> Any:
        raise RuntimeError("no session")

    with pytest.raises(RuntimeError, match="no session"):
        numeric_class(broken)
