"""Models that are not what they say: impossible shapes, wrong indices, ambiguous bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .building import (
    FLOAT,
    IMAGE,
    INT32,
    INT64,
    external,
    field,
    model,
    node,
    proto,
    value,
    varint,
)
from .catalogue import LIMITS, RUNS, Hostile

SOUND_SHAPES = ("sound shapes",)
ONNX_MODEL = ("an ONNX model",)
# onnxruntime refuses it, or its child dies of it: both harm nobody.
CONTAINED = ("model", "crash", "memory")


# ---- shapes ----------------------------------------------------------------------------------


def tensor(dims: list[int], raw: bytes | None = bytes(16), kind: int = FLOAT) -> bytes:
    """y = x + w, w being an initialiser with these dimensions and bytes."""
    weights = TensorProto(name="w", data_type=kind, dims=dims)
    if raw is not None:
        weights.raw_data = raw
    return model([node("Add", ["x", "w"], ["y"])], {"w": weights})


def sparse(dims: list[int], indices: list[Any]) -> bytes:
    whole = proto([node("ReduceSum", ["w"], ["r"], keepdims=0), node("Add", ["r", "x"], ["y"])])
    whole.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(len(indices), np.float32), "w"),
            numpy_helper.from_array(np.array(indices, np.int64), "w_indices"),
            dims,
        )
    )
    data: bytes = whole.SerializeToString()
    return data


def declared(dim: int) -> bytes:
    return model([node("Neg", ["x"], ["y"])], inputs=[value("x", FLOAT, [dim])])


SHAPES = [
    Hostile("shape_2_62", "shapes", "2**62 elements", partial(tensor, [2**62]), SOUND_SHAPES),
    Hostile("shape_overflow", "shapes", "2**66 elements, none in 64 bits",
            partial(tensor, [2**32, 2**32, 4], b""), SOUND_SHAPES),
    Hostile("shape_negative", "shapes", "minus four elements",
            partial(tensor, [-1, -4]), SOUND_SHAPES),
    Hostile("shape_zero_times_huge", "shapes", "nothing, times 2**62",
            partial(tensor, [0, 2**62], b""), SOUND_SHAPES),
    Hostile("shape_mismatch", "shapes", "five elements in the room of four",
            partial(tensor, [5]), SOUND_SHAPES),
    Hostile("shape_too_much", "shapes", "three elements and four bytes too many",
            partial(tensor, [3]), SOUND_SHAPES),
    Hostile("shape_no_data", "shapes", "elements without data",
            partial(tensor, [2**20], None), SOUND_SHAPES),
    Hostile("shape_many_axes", "shapes", "100,000 axes",
            partial(tensor, [1] * 100_000, bytes(4)), SOUND_SHAPES),
    Hostile("shape_no_dtype", "shapes", "elements of no type",
            partial(tensor, [4], kind=0), SOUND_SHAPES),
    Hostile("shape_odd_dtype", "shapes", "elements of type 99",
            partial(tensor, [4], kind=99), SOUND_SHAPES),
    Hostile("shape_input", "shapes", "an input of 2**62 elements",
            partial(declared, 2**62), SOUND_SHAPES),
    Hostile("sparse_outside", "sparse", "an index outside", partial(sparse, [4], [2**40]),
            SOUND_SHAPES),
    Hostile("sparse_negative", "sparse", "a negative index", partial(sparse, [4], [-1]),
            SOUND_SHAPES),
    Hostile("sparse_outside_2d", "sparse", "an index outside, of two axes",
            partial(sparse, [4, 4], [[0, 1], [1, 4]]), SOUND_SHAPES),
    Hostile("sparse_huge", "sparse", "one element of 2**60",
            partial(sparse, [2**30, 2**30], [0]), SOUND_SHAPES),
    Hostile("sparse_bomb", "sparse", "one element of 2**30, unfolded",
            partial(sparse, [2**30], [0]), (*LIMITS, "model")),
]  # fmt: skip


# ---- what crashes onnxruntime, or is refused by it -------------------------------------------


def whole_numbers(op: str, kind: int) -> bytes:
    return model(
        [node(op, ["a", "b"], ["y"])],
        inputs=[value("a", kind), value("b", kind)],
        outputs=[value("y", kind)],
    )


def image(op: str, constants: dict[str, Any] | None = None, **attributes: Any) -> bytes:
    return model(
        [node(op, ["x", *(constants or {})], ["y"], **attributes)],
        constants,
        inputs=[value("x", FLOAT, [1, 1, "h", "w"])],
    )


def gru(length: int) -> bytes:
    return model(
        [node("GRU", ["s", "w", "r"], ["y"], hidden_size=2)],
        {
            "s": np.zeros((length, 1, 2), np.float32),
            "w": np.ones((1, 6, 2), np.float32),
            "r": np.ones((1, 6, 2), np.float32),
        },
    )


def split(**attributes: Any) -> bytes:
    return model(
        [node("Split", ["x"], ["y", "z"], **attributes)], outputs=[value("y", shape=None)], opset=18
    )


def stft() -> bytes:
    return model(
        [node("STFT", ["s", "step"], ["y"])],
        {"s": np.ones((1, 128, 1), np.float32), "step": np.int64(8)},
    )


def unique() -> bytes:
    return model([node("Unique", ["e"], ["y"], axis=0)], {"e": np.zeros((0, 3), np.float32)})


def counted_words() -> bytes:
    attributes = {
        "mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 2**31,
        "ngram_counts": [0, 2**40], "ngram_indexes": [2**40, -5], "pool_int64s": [1, 2],
    }  # fmt: skip
    return model(
        [node("TfIdfVectorizer", ["t"], ["y"], **attributes)], {"t": np.array([1, 2], np.int64)}
    )


def tree(**changes: Any) -> bytes:
    """A decision tree of three nodes, unless changed."""
    attributes: dict[str, Any] = {
        "n_targets": 1, "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 0.0], "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0], "target_nodeids": [1, 2],
        "target_ids": [0, 0], "target_weights": [1.0, 2.0], **changes,
    }  # fmt: skip
    return model(
        [
            node("Unsqueeze", ["x", "zero"], ["r"]),
            node("TreeEnsembleRegressor", ["r"], ["y"], domain="ai.onnx.ml", **attributes),
        ],
        {"zero": np.zeros(1, np.int64)},
        imports={"ai.onnx.ml": 3},
    )


def support_vectors() -> bytes:
    """More support vectors than there are coefficients."""
    return model(
        [
            node("Unsqueeze", ["x", "zero"], ["r"]),
            node(
                "SVMRegressor", ["r"], ["y"], domain="ai.onnx.ml", kernel_type="RBF",
                kernel_params=[1.0, 0.0, 0.0], n_supports=2**31, coefficients=[1.0],
                support_vectors=[1.0], rho=[0.0], post_transform="NONE",
            ),
        ],
        {"zero": np.zeros(1, np.int64)},
        imports={"ai.onnx.ml": 3},
    )  # fmt: skip


def cyclic() -> bytes:
    return model(
        [node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["y"])]
    )


def indexed(op: str, index: Any, shape: tuple[int, ...] = (4,), **attributes: Any) -> bytes:
    data = np.ones(shape, np.float32)
    extra = {"u": np.ones(1, np.float32)} if op.startswith("Scatter") else {}
    return model(
        [node(op, ["d", "i", *extra], ["t"], **attributes), node("Add", ["t", "x"], ["y"])],
        {"d": data, "i": np.array(index, np.int64), **extra},
    )


def _numbers(kind: str, a: int, b: int) -> dict[str, Any]:
    return {"a": np.full(4, a, kind), "b": np.full(4, b, kind)}


_UNPOOL = {"i": np.array([[[[2**33, -(2**30)], [1, 5]]]]).repeat(2, 2).repeat(2, 3)}

CRASHES = [
    Hostile("crash_least_by_minus_one", "crashes", "the least integer by minus one",
            partial(whole_numbers, "Div", INT32), (*CONTAINED, RUNS), _numbers("i4", -(2**31), -1)),
    Hostile("crash_least_by_minus_one_64", "crashes", "the same in 64 bits",
            partial(whole_numbers, "Div", INT64), CONTAINED, _numbers("i8", -(2**63), -1)),
    Hostile("crash_by_zero", "crashes", "an integer by zero",
            partial(whole_numbers, "Div", INT32), CONTAINED, _numbers("i4", 7, 0)),
    Hostile("crash_remainder", "crashes", "an integer modulo zero",
            partial(whole_numbers, "Mod", INT64), CONTAINED, _numbers("i8", 7, 0)),
    Hostile("crash_remainder_least", "crashes", "the least integer modulo minus one",
            partial(whole_numbers, "Mod", INT64), (*CONTAINED, RUNS), _numbers("i8", -(2**63), -1)),
    Hostile("crash_gather_nd", "crashes", "minus seven batch axes",
            lambda: indexed("GatherND", [[0], [1]], (2, 2), batch_dims=-7),
            (*CONTAINED, "sound attributes")),
    Hostile("crash_split", "crashes", "one part into two outputs", partial(split, num_outputs=1),
            (*CONTAINED, "sound attributes")),
    Hostile("crash_split_zero", "crashes", "no part into two outputs",
            partial(split, num_outputs=0), (*CONTAINED, "sound attributes")),
    Hostile("crash_stft", "crashes", "STFT without the length of a frame", stft, CONTAINED),
    Hostile("crash_gru", "crashes", "a GRU of length zero", partial(gru, 0), (*CONTAINED, RUNS)),
    Hostile("crash_unique", "crashes", "unique rows of none", unique, (*CONTAINED, RUNS)),
    Hostile("crash_words", "crashes", "counts of words out of range", counted_words, CONTAINED),
    Hostile("crash_average_pool", "crashes", "a huge pool",
            partial(image, "AveragePool", kernel_shape=[2**40, 2**40], pads=[2**40] * 4),
            CONTAINED, IMAGE),
    Hostile("crash_lp_pool", "crashes", "a pool of nothing",
            partial(image, "LpPool", kernel_shape=[0, 0], strides=[1, 1]),
            (*CONTAINED, "sound attributes"), IMAGE),
]  # fmt: skip

REFUSALS = [
    Hostile("refused_cycle", "refusals", "a graph that bites its tail", cyclic, ("model",)),
    Hostile("refused_gather", "refusals", "an index outside",
            lambda: indexed("Gather", [2**40]), ("model",)),
    Hostile("refused_gather_negative", "refusals", "a negative index outside",
            lambda: indexed("GatherElements", [-(2**40)]), ("model",)),
    Hostile("refused_scatter", "refusals", "writes outside",
            lambda: indexed("ScatterND", [[2**40]]), ("model",)),
    Hostile("refused_unpool", "refusals", "unpools outside",
            lambda: image("MaxUnpool", _UNPOOL, kernel_shape=[2, 2], strides=[2, 2]),
            ("model",), IMAGE),
    Hostile("refused_groups", "refusals", "a convolution of no groups",
            lambda: image("Conv", {"k": np.ones((1, 1, 1, 1), np.float32)}, group=0),
            ("model", "sound attributes"), IMAGE),
    Hostile("refused_strides", "refusals", "a pool that does not move",
            lambda: image("MaxPool", kernel_shape=[2, 2], strides=[0, 0]),
            ("model", "sound attributes"), IMAGE),
    Hostile("refused_tree_cycle", "refusals", "a tree that bites its tail",
            lambda: tree(nodes_truenodeids=[0, 0, 0], nodes_falsenodeids=[0, 0, 0]),
            (*CONTAINED, *LIMITS)),
    Hostile("refused_tree_feature", "refusals", "a tree that looks outside",
            lambda: tree(nodes_featureids=[2**40, 0, 0]), CONTAINED),
    Hostile("refused_tree_node", "refusals", "a tree with a missing branch",
            lambda: tree(nodes_truenodeids=[77, 0, 0]), CONTAINED),
    Hostile("refused_vectors", "refusals", "support vectors that are not there",
            support_vectors, CONTAINED),
    Hostile("refused_name", "refusals", "a value that nobody made",
            lambda: model([node("Add", ["x", "nobody"], ["y"])]), ("model",)),
]  # fmt: skip


# ---- bytes -----------------------------------------------------------------------------------

GOOD = model([node("Identity", ["x"], ["y"])])


def merged() -> bytes:
    """The graph in two occurrences, which protobuf merges into one."""
    whole = onnx.load_from_string(GOOD)
    whole.graph.initializer.append(external("etc/passwd", "x"))
    extra = onnx.ModelProto()
    extra.graph.initializer.append(whole.graph.initializer[0])
    return GOOD + bytes(extra.SerializeToString())


def said_twice(number: int, first: bytes | int, last: bytes | int) -> bytes:
    """A node that says one of its fields twice: the last word counts."""
    fields = {1: b"x", 2: b"y", 4: b"Identity"}
    written = b"".join(field(key, text) for key, text in fields.items() if key != number)
    written += field(number, first) + field(number, last)
    return with_node(written)


def with_node(written: bytes) -> bytes:
    """A model around the bytes of one node."""
    whole = onnx.load_from_string(GOOD)
    whole.graph.ClearField("node")
    rest: bytes = whole.graph.SerializeToString()
    whole.ClearField("graph")
    return bytes(whole.SerializeToString()) + field(7, field(1, written) + rest)


def deep(levels: int, around: Callable[[bytes], bytes]) -> bytes:
    inner = b""
    for _ in range(levels):
        inner = around(inner)
    return inner


def nested_graphs(levels: int) -> bytes:
    inner = deep(levels, lambda inside: field(1, field(5, field(6, inside))))
    return field(1, 8) + field(7, inner) + field(8, field(2, 17))


def nested_types(levels: int) -> bytes:
    kind = deep(levels, lambda inside: field(4, field(1, inside)))
    return field(1, 8) + field(7, field(11, field(1, b"x") + field(2, kind)))


def with_metadata(key: str, text: str) -> bytes:
    whole = onnx.load_from_string(GOOD)
    whole.metadata_props.add(key=key, value=text)
    data: bytes = whole.SerializeToString()
    return data


ORT_JUNK = b"\x1c\0\0\0ORTM" + b"\xff" * 4096

BYTES = [
    Hostile("bytes_empty", "bytes", "nothing", lambda: b"", ONNX_MODEL, {}),
    Hostile("bytes_zero", "bytes", "zeros", lambda: bytes(4096), ONNX_MODEL, {}),
    Hostile("bytes_ff", "bytes", "ones", lambda: b"\xff" * 4096, ONNX_MODEL, {}),
    Hostile("bytes_text", "bytes", "a web page", lambda: b"<html>" * 100, ONNX_MODEL, {}),
    Hostile("bytes_ort", "bytes", "onnxruntime's own format", lambda: ORT_JUNK, ONNX_MODEL, {}),
    Hostile("bytes_truncated", "bytes", "the first half", lambda: GOOD[: len(GOOD) // 2],
            ONNX_MODEL, {}),
    Hostile("bytes_no_graph", "bytes", "no graph", lambda: field(1, 8) + field(8, field(2, 17)),
            ONNX_MODEL, {}),
    Hostile("bytes_deep", "bytes", "3000 graphs within graphs", partial(nested_graphs, 3000),
            ("bounded size", "an ONNX model"), {}),
    Hostile("bytes_deep_types", "bytes", "3000 types within types", partial(nested_types, 3000),
            ("bounded size", "an ONNX model", "tensors in and out"), {}),
    Hostile("bytes_beyond", "bytes", "a length beyond the end",
            lambda: GOOD + b"\x3a" + varint(2**31), ONNX_MODEL, {}),
    Hostile("bytes_far_beyond", "bytes", "a length beyond all memory",
            lambda: GOOD + b"\x3a" + varint(2**63), ONNX_MODEL, {}),
    Hostile("bytes_long_number", "bytes", "an integer of eleven bytes",
            lambda: GOOD + b"\x28" + b"\x80" * 10 + b"\x01", ONNX_MODEL, {}),
    Hostile("bytes_groups", "bytes", "groups within groups",
            lambda: GOOD + b"\x0b" * 5000 + b"\x0c" * 5000, ONNX_MODEL, {}),
    Hostile("bytes_wire_type", "bytes", "an unknown wire type",
            lambda: GOOD + b"\x0f\x00", ONNX_MODEL, {}),
    Hostile("bytes_unknown_field", "bytes", "a field that ONNX does not have",
            lambda: GOOD + field(77, b"surprise"), ONNX_MODEL),
    Hostile("bytes_merged", "bytes", "a graph in two parts", merged, ONNX_MODEL),
    Hostile("bytes_second_operator", "bytes", "an operator with two names",
            partial(said_twice, 4, b"Identity", b"RandomNormalLike"), ONNX_MODEL),
    Hostile("bytes_second_domain", "bytes", "an operator in two domains",
            partial(said_twice, 7, b"", b"com.microsoft"), ONNX_MODEL),
    Hostile("bytes_bad_utf_8", "bytes", "an operator whose name is no text",
            lambda: with_node(field(1, b"x") + field(2, b"y") + field(4, b"Iden\xfftity")),
            ONNX_MODEL),
    Hostile("settings_ort_config", "settings", "settings for onnxruntime",
            partial(with_metadata, "ort_config",
                    '{"session_options": {"intra_op_num_threads": 64, "enable_profiling": 1}}'),
            ("no settings",)),
]  # fmt: skip

MALFORMED: list[Hostile] = [*SHAPES, *CRASHES, *REFUSALS, *BYTES]
