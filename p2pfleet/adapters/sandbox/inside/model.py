"""One model in one child: loading it, holding bundles against it, running it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from .admission import Refusal, admit
from .bundle import ITEM_BYTES, MAX_NAME_CHARS, MAX_RANK, MAX_TENSORS, BadBundle, Entry
from .bundle import bundle_head as _bundle_head
from .bundle import read_bundle as _read_bundle
from .bundle import tensor_head as _tensor_head

SESSION_ENTRIES = {
    # Without it, int8 products are wrong by up to a fifth on x86 CPUs without VNNI.
    "session.x64quantprecision": "1",
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
    # A constant subgraph of a few hundred bytes can otherwise unfold into gigabytes at load.
    "optimization.constant_folding_max_output_size_in_bytes": "1048576",
    "session.load_model_format": "ONNX",
}

_DTYPES = {
    "tensor(bool)": "bool", "tensor(int8)": "int8", "tensor(int16)": "int16",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
    "tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64",
}  # fmt: skip

_OUT_OF_MEMORY = re.compile(r"bad_alloc|bad allocation|failed to allocate|out of memory", re.I)


class Fault(Exception):
    """The model or the bundle cannot be used; ``kind`` as in ``ports.ExecutionFault``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class Spec(NamedTuple):
    """One input or output of the model; free axes are ``None``."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def session_options() -> ort.SessionOptions:
    """The options that every volunteer uses: results depend on them."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in SESSION_ENTRIES.items():
        options.add_session_config_entry(name, value)
    return options


def open_session(model: bytes) -> ort.InferenceSession:
    """A session on the CPU; whatever onnxruntime raises comes through."""
    session = ort.InferenceSession(
        model, session_options(), providers=["CPUExecutionProvider"], enable_fallback=0
    )
    # The wrapper keeps the bytes in order to rebuild a session; the child's memory is counted.
    session._model_bytes = None
    return session


class Model:
    """A loaded model. Every failure is a :class:`Fault`.

    ``contrib_ops``: whether onnxruntime's own operators (com.microsoft) are admitted.
    """

    def __init__(self, read: Callable[[], bytes], *, contrib_ops: bool = False) -> None:
        try:
            self._unranked, self._session = _admitted_session(read(), contrib_ops)
            self.inputs = _specs("input", self._session.get_inputs())
            self.outputs = _specs("output", self._session.get_outputs())
        except Fault:
            raise
        except Exception as error:
            raise _fault_of(error) from None

    def run(self, bundle: memoryview, limit: int) -> Result:
        """The outputs for the input ``bundle``; they must fit ``limit`` bytes once written."""
        try:
            values = self._session.run(
                [spec.name for spec in self.outputs],
                _feeds(self.inputs, self._unranked, bundle),
            )
            result = Result(self.outputs, values)
        except Fault:
            raise
        except Exception as error:
            raise _fault_of(error) from None
        if result.size > limit:
            raise Fault("output", f"the outputs take {result.size} bytes, allowed are {limit}")
        return result


def _admitted_session(
    model: bytes, contrib_ops: bool
) -> tuple[frozenset[str], ort.InferenceSession]:
    """The inputs of undeclared rank, and a session; onnxruntime sees only what was admitted."""
    try:
        admitted = admit(model, contrib_ops=contrib_ops)
    except Refusal as refusal:
        raise Fault("model", str(refusal)) from None
    return admitted.unranked, open_session(model)


class Result:
    """The outputs of one run, ready to be written as a canonical bundle of ``size`` bytes."""

    def __init__(self, specs: tuple[Spec, ...], values: list[Any]) -> None:
        self._parts: list[tuple[bytes, np.ndarray[Any, Any]]] = []
        head = _bundle_head(len(specs))
        self.size = len(head)
        for spec, value in zip(specs, values, strict=True):
            if not isinstance(value, np.ndarray) or value.dtype.name != spec.dtype:
                raise Fault("model", f"output {spec.name!r} is not a tensor of {spec.dtype}")
            # Not ascontiguousarray, which turns a scalar into a list of one.
            array = np.asarray(value, order="C")
            try:
                tensor_head = _tensor_head(spec.name, spec.dtype, array.shape)
            except BadBundle as error:
                raise Fault("output", str(error)) from None
            self._parts.append((head + tensor_head, array.reshape(-1).view(np.uint8)))
            self.size += len(tensor_head) + array.nbytes
            head = b""
        self._tail = head

    def write(self, target: memoryview) -> None:
        """Write the bundle to the start of ``target``."""
        position = len(self._tail)
        target[:position] = self._tail
        for head, data in self._parts:
            target[position : position + len(head)] = head
            position += len(head)
            np.frombuffer(target, np.uint8)[position : position + data.size] = data
            position += data.size


def _specs(role: str, nodes: list[Any]) -> tuple[Spec, ...]:
    if len(nodes) > MAX_TENSORS:
        raise Fault("model", f"it has {len(nodes)} {role}s, at most {MAX_TENSORS} are allowed")
    specs: list[Spec] = []
    for node in nodes:
        if node.type not in _DTYPES:
            raise Fault(
                "model",
                f"{role} {node.name!r} is a {node.type}; only tensors of {', '.join(ITEM_BYTES)} "
                "can travel",
            )
        if not 1 <= len(node.name) <= MAX_NAME_CHARS or len(node.shape) > MAX_RANK:
            raise Fault(
                "model",
                f"{role} {len(specs)} has a name or a shape that is too long "
                f"({MAX_NAME_CHARS} characters, {MAX_RANK} axes)",
            )
        shape = tuple(
            dim if isinstance(dim, int) and 0 <= dim < 2**40 else None for dim in node.shape
        )
        specs.append(Spec(node.name, _DTYPES[node.type], shape))
    return tuple(specs)


def _feeds(specs: tuple[Spec, ...], unranked: frozenset[str], bundle: memoryview) -> dict[str, Any]:
    try:
        entries = _read_bundle(bundle)
    except BadBundle as error:
        raise Fault("input", f"not a canonical bundle: {error}") from None
    if len(entries) != len(specs):
        raise Fault(
            "input",
            f"the bundle holds {len(entries)} tensors where the model takes {len(specs)}: "
            + ", ".join(repr(spec.name) for spec in specs),
        )
    return {
        spec.name: _array(spec, entry, bundle, ranked=spec.name not in unranked)
        for spec, entry in zip(specs, entries, strict=True)
    }


def _array(spec: Spec, entry: Entry, bundle: memoryview, *, ranked: bool) -> np.ndarray[Any, Any]:
    if entry.name != spec.name:
        raise Fault(
            "input", f"tensor {entry.name!r} stands where the model takes input {spec.name!r}"
        )
    if entry.dtype != spec.dtype:
        raise Fault(
            "input",
            f"input {spec.name!r} is given as {entry.dtype} where the model takes {spec.dtype}",
        )
    # onnxruntime shows a scalar and a tensor of undeclared rank alike, as no axes at all.
    if ranked and (
        len(spec.shape) != len(entry.shape)
        or any(want not in (None, have) for want, have in zip(spec.shape, entry.shape, strict=True))
    ):
        wanted = ", ".join("any" if dim is None else str(dim) for dim in spec.shape)
        raise Fault(
            "input",
            f"input {spec.name!r} is given with shape {list(entry.shape)} where the model takes "
            f"[{wanted}]",
        )
    try:
        array = np.empty(entry.shape, entry.dtype)
    except ValueError:
        raise Fault("input", f"input {spec.name!r} has an impossible shape") from None
    if array.size:
        data = np.frombuffer(bundle[entry.start : entry.stop], np.uint8)
        # Copied, because in the bundle the elements lie wherever the names end, unaligned.
        array.reshape(-1).view(np.uint8)[:] = data
    return array


def _fault_of(error: Exception) -> Fault:
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return Fault("memory", "the model needs more memory than its limit")
    return Fault("model", text)
