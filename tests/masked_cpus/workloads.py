"""What the masked CPUs compute, and the vectors that were recorded of it.

    PYTHONPATH=FOLDER:. python -m tests.masked_cpus.workloads run avx FILE.npz

``recorded/`` holds one such file a level: for each workload the canonical bundle of its outputs
(uint8), and ``provenance``, JSON that says where the bundles come from. With ``suite`` instead of
``run`` the file also holds the outputs of the numeric probe suite. Sessions are opened exactly as a
volunteer opens them.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Sets the environment that onnxruntime reads when it is imported.
import p2pfleet

assert p2pfleet.__version__

import numpy as np  # noqa: E402

from p2pfleet.adapters.sandbox.inside.onnx_writer import Array, Node, node, write_model  # noqa: E402
from p2pfleet.adapters.sandbox.inside.probe_values import bytes_of, floats  # noqa: E402
from p2pfleet.core.wire.tensors import Tensor, encode_bundle  # noqa: E402

RECORDED = Path(__file__).parent / "recorded"
CHECKOUT = Path(__file__).parents[2]
DIGITS = CHECKOUT / "testnet" / "jobs" / "digits"

SATURATING = "int8, weights computed"
"""Products of uint8 with int8 that is no constant: the kernels for AVX2 and for AVX-512 without
VNNI add pairs in 16 bits, which overflow; the pinned ``session.x64quantprecision`` mends constants
only."""


class Workload(NamedTuple):
    """A model and the inputs of one unit."""

    name: str
    model: bytes
    feeds: dict[str, Array]


def workloads() -> Iterator[Workload]:
    """All of them, in the order of their names in the recordings."""
    yield _made(
        "matmul", [node("MatMul", "x w", "y")], {"x": floats(1, 8, 600)},
        {"w": floats(2, 600, 96)}, y="float32",
    )  # fmt: skip
    # A row, and weights that only come with the unit: other kernels.
    yield _made(
        "matvec", [node("MatMul", "x w", "y")],
        {"x": floats(11, 1, 257), "w": floats(12, 257, 65)}, {}, y="float32",
    )  # fmt: skip
    yield _made(
        "depthwise", [node("Conv", "x k", "y", group=3, pads=(1, 1, 1, 1))],
        {"x": floats(13, 1, 3, 11, 19)}, {"k": floats(14, 3, 1, 3, 3)}, y="float32",
    )  # fmt: skip
    yield _made(
        "conv",
        [node("Conv", "x k b", "c", pads=(1, 1, 1, 1)), node("Relu", "c", "r"),
         node("AveragePool", "r", "y", kernel_shape=(2, 2), strides=(2, 2))],
        {"x": floats(3, 1, 16, 24, 24)},
        {"k": floats(4, 8, 16, 3, 3), "b": floats(5, 8)},
        y="float32",
    )  # fmt: skip
    yield _made(
        "softmax",
        [node("Softmax", "x", "y", axis=-1), node("LogSoftmax", "x", "z", axis=-1)],
        {"x": floats(6, 5, 133, scale=8)}, {}, y="float32", z="float32",
    )  # fmt: skip
    yield _made(
        "lstm",
        [node("LSTM", "x w r b", "y last", hidden_size=24)],
        {"x": floats(7, 20, 1, 16)},
        {"w": floats(8, 1, 96, 16), "r": floats(9, 1, 96, 24), "b": floats(10, 1, 192)},
        y="float32", last="float32",
    )  # fmt: skip
    yield _attention()
    yield _made(
        "half matmul", [node("MatMul", "x w", "y")], {"x": floats(20, 12, 300, dtype="float16")},
        {"w": floats(21, 300, 48, dtype="float16")}, y="float16",
    )  # fmt: skip
    yield _made(
        "double matmul", [node("MatMul", "x w", "y")], {"x": floats(22, 6, 300, dtype="float64")},
        {"w": floats(23, 300, 40, dtype="float64")}, y="float64",
    )  # fmt: skip
    yield _made(
        "int8",
        [node("MatMulInteger", "u w", "sums"),
         node("DynamicQuantizeLinear", "x", "q scale zero"),
         node("MatMulInteger", "q w2 zero", "product"),
         node("Cast", "product", "real", to=1), node("Mul", "real scale", "y")],
        {"u": bytes_of(24, 8, 200, dtype="uint8"), "x": floats(25, 8, 200)},
        {"w": bytes_of(26, 200, 48, dtype="int8"), "w2": bytes_of(27, 200, 48, dtype="int8")},
        sums="int32", y="float32",
    )  # fmt: skip
    yield _made(
        SATURATING, [node("MatMulInteger", "u w", "y")],
        {"u": bytes_of(24, 8, 200, dtype="uint8"), "w": bytes_of(26, 200, 48, dtype="int8")}, {},
        y="int32",
    )  # fmt: skip
    yield _deep()
    images = np.load(DIGITS / "digits.npz")["image"]
    yield Workload("digits", (DIGITS / "digits.onnx").read_bytes(), {"image": images[-50:]})


def run() -> dict[str, bytes]:
    """The bundle of each workload, computed by whichever onnxruntime this process finds."""
    from p2pfleet.adapters.sandbox.inside.model import open_session

    answers = {}
    for one in workloads():
        session = open_session(one.model)
        names = [output.name for output in session.get_outputs()]
        answers[one.name] = _bundle(names, session.run(names, one.feeds))
    return answers


def _bundle(names: list[str], values: list[Array]) -> bytes:
    arrays = [np.asarray(value, order="C") for value in values]
    return encode_bundle(
        tuple(
            Tensor(name, array.dtype.name, array.shape, array.tobytes())  # type: ignore[arg-type]
            for name, array in zip(names, arrays, strict=True)
        )
    )


def probe_suite() -> dict[str, bytes]:
    """A bundle of each output of the suite that the numeric class is made of."""
    from p2pfleet.adapters.sandbox.inside.numeric import probe_results

    return {name: _bundle(["y"], [value]) for name, value in probe_results()}


def save(level: str, target: Path, suite: bool = False) -> None:
    """Run everything and write the recording of ``level``, with the probe suite on demand."""
    import onnxruntime

    from p2pfleet.adapters.sandbox.inside.numeric import numeric_class

    provenance = {
        "level": level,
        "method": "tests.masked_cpus.workloads on a copy made by tests.masked_cpus.package",
        "cpu": _cpu(),
        "system": platform.platform(terse=True),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "numeric_class": numeric_class().hex(),
    }
    bundles = run() | (probe_suite() if suite else {})
    arrays: dict[str, Any] = {
        name.replace("/", "|"): np.frombuffer(bundle, np.uint8) for name, bundle in bundles.items()
    }
    arrays["provenance"] = np.frombuffer(json.dumps(provenance).encode(), np.uint8)
    np.savez_compressed(target, **arrays)


def load(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The provenance and the bundles of a recording."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name].tobytes() for name in arrays.files}
    return json.loads(found.pop("provenance")), found


def _made(
    name: str,
    nodes: list[Node],
    feeds: dict[str, Array],
    constants: Mapping[str, Array],
    **outputs: str,
) -> Workload:
    return Workload(name, write_model(nodes, feeds, outputs, constants), feeds)


def _attention() -> Workload:
    """Two heads of 32 over 20 tokens, with the layer norm and the gate behind it."""
    nodes = []
    for head in "ab":
        nodes += [
            node("MatMul", f"x q{head}", f"Q{head}"), node("MatMul", f"x k{head}", f"K{head}"),
            node("MatMul", f"x v{head}", f"V{head}"),
            node("Transpose", f"K{head}", f"T{head}", perm=(1, 0)),
            node("MatMul", f"Q{head} T{head}", f"S{head}"),
            node("Mul", f"S{head} root", f"R{head}"),
            node("Softmax", f"R{head}", f"P{head}", axis=-1),
            node("MatMul", f"P{head} V{head}", f"O{head}"),
        ]  # fmt: skip
    nodes += [
        node("Concat", "Oa Ob", "heads", axis=-1), node("MatMul", "heads out", "mixed"),
        node("Add", "mixed x", "sum"),
        node("LayerNormalization", "sum gain shift", "normal", axis=-1),
        node("Gelu", "normal", "y"),
    ]  # fmt: skip
    constants = {
        f"{kind}{head}": floats(30 + number, 64, 32)
        for number, (kind, head) in enumerate((k, h) for k in "qkv" for h in "ab")
    }
    constants |= {
        "root": np.array(32**-0.5 / 8, np.float32), "out": floats(40, 64, 64),
        "gain": floats(41, 64), "shift": floats(42, 64),
    }  # fmt: skip
    return _made("attention", nodes, {"x": floats(43, 20, 64)}, constants, y="float32")


def _deep() -> Workload:
    """Sixteen layers with a residual and a normalisation each: where last digits could add up."""
    nodes, constants = [], {"gain": floats(50, 48) + 1, "shift": floats(51, 48)}
    for layer in range(16):
        here, there = (f"x{layer}" if layer else "x"), f"x{layer + 1}" if layer < 15 else "y"
        constants[f"w{layer}"] = floats(60 + layer, 48, 48)
        nodes += [
            node("MatMul", f"{here} w{layer}", f"m{layer}"), node("Tanh", f"m{layer}", f"t{layer}"),
            node("Add", f"t{layer} {here}", f"s{layer}"),
            node("LayerNormalization", f"s{layer} gain shift", there, axis=-1),
        ]  # fmt: skip
    return _made("deep", nodes, {"x": floats(52, 12, 48)}, constants, y="float32")


def _cpu() -> str:
    """The CPU of this machine, as its system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {platform.machine()}"


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("run", "suite"):
        sys.exit("usage: python -m tests.masked_cpus.workloads run|suite LEVEL FILE.npz")
    save(sys.argv[2], Path(sys.argv[3]), suite=sys.argv[1] == "suite")
