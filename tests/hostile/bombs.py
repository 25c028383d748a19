"""Models that want more time or memory than anybody grants them."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from onnx import helper

from .building import (
    BOOL,
    FLOAT,
    INT64,
    ONE,
    branch,
    chain_of,
    field,
    function,
    graph,
    loop_body,
    model,
    node,
    proto,
    value,
)
from .catalogue import LIMITS, RUNS, Hostile

BOUNDED_LOOPS = ("bounded loops",)
BOUNDED_SIZE = ("bounded size",)
BOUNDED_FUNCTIONS = ("bounded functions",)
SOUND_SHAPES = ("sound shapes",)
# What a bomb at run time may lead to: onnxruntime itself refuses some sizes.
BOOM = (*LIMITS, "output", "model")

TRUTH = {"c": np.array(True)}
WIDE = {"x": np.ones(2**18, np.float32)}


# ---- loops -----------------------------------------------------------------------------------


def endless(rounds: int | None, *, grow: bool = False, scan: bool = False) -> bytes:
    """A Loop of so many rounds (``None``: unsaid); ``grow``: its value doubles in length."""
    nodes = [
        node("Concat", ["v", "v"], ["v2"], axis=0) if grow else node("Add", ["v", "v"], ["v2"])
    ]
    outputs = ["y"]
    if scan:
        nodes.append(node("Identity", ["v"], ["z"]))
        outputs = ["last", "y"]
    body = loop_body(nodes, "z") if scan else loop_body(nodes)
    return model(
        [node("Loop", ["" if rounds is None else "rounds", "true", "x"], outputs, body=body)],
        {"true": np.array(True)} | ({} if rounds is None else {"rounds": np.int64(rounds)}),
    )


def rounds_from_an_input() -> bytes:
    body = loop_body([node("Add", ["v", "v"], ["v2"])])
    return model(
        [node("Loop", ["rounds", "true", "x"], ["y"], body=body)],
        {"true": np.array(True)},
        inputs=[value("x"), value("rounds", INT64, [])],
    )


def rounds_computed() -> bytes:
    body = loop_body([node("Add", ["v", "v"], ["v2"])])
    return model(
        [
            node("Shape", ["x"], ["s"]),
            node("Mul", ["s", "many"], ["rounds"]),
            node("Loop", ["rounds", "true", "x"], ["y"], body=body),
        ],
        {"true": np.array(True), "many": np.array([2**50])},
    )


def loops_in_loops(rounds: int, levels: int) -> bytes:
    """Each loop is modest, all together never end."""
    body = loop_body([node("Add", ["v", "v"], ["v2"])])
    for _ in range(levels - 1):
        body = loop_body([node("Loop", ["rounds", "true", "v"], ["v2"], body=body)])
    return model(
        [node("Loop", ["rounds", "true", "x"], ["y"], body=body)],
        {"true": np.array(True), "rounds": np.int64(rounds)},
    )


def loops_in_functions(rounds: int) -> bytes:
    """The same, each loop in a function that the next one calls."""
    functions = []
    for level in range(6):
        inner = (
            node("Add", ["v", "v"], ["v2"])
            if level == 0
            else node(f"F{level - 1}", ["v"], ["v2"], domain="local")
        )
        functions.append(
            function(
                f"F{level}",
                [
                    node("Constant", [], ["n"], value_int=rounds),
                    node("Loop", ["n", "", "a"], ["o"], body=loop_body([inner])),
                ],
            )
        )
    return model(
        [node("F5", ["x"], ["y"], domain="local")], functions=functions, imports={"local": 1}
    )


def rounds_in_a_constant(**attributes: object) -> bytes:
    body = loop_body([node("Add", ["v", "v"], ["v2"])])
    return model(
        [
            node("Constant", [], ["rounds"], **attributes),
            node("Loop", ["rounds", "", "x"], ["y"], body=body),
        ]
    )


LOOPS = [
    Hostile("loop_2_62", "loops", "2**62 rounds", partial(endless, 2**62), BOUNDED_LOOPS),
    Hostile("loop_unsaid", "loops", "no number of rounds", partial(endless, None), BOUNDED_LOOPS),
    Hostile("loop_constant", "loops", "the number in a Constant node",
            partial(rounds_in_a_constant, value_int=2**60), BOUNDED_LOOPS),
    Hostile("loop_constants", "loops", "the number in a Constant list of one",
            partial(rounds_in_a_constant, value_ints=[2**60]), BOUNDED_LOOPS),
    Hostile("loop_scan", "loops", "2**62 rounds that are all kept",
            partial(endless, 2**62, scan=True), BOUNDED_LOOPS, WIDE),
    Hostile("loop_nested", "loops", "loops within loops",
            partial(loops_in_loops, 10**6, 7), BOUNDED_LOOPS),
    Hostile("loop_functions", "loops", "loops within functions within loops",
            partial(loops_in_functions, 10**8), BOUNDED_LOOPS),
    Hostile("loop_long", "loops", "2**30 rounds: bounded, yet too long",
            partial(endless, 2**30), LIMITS),
    Hostile("loop_doubling", "loops", "a value that doubles each round",
            partial(endless, 200, grow=True), BOOM),
    Hostile("loop_scan_memory", "loops", "keeps a megabyte each round",
            partial(endless, 10**6, scan=True), BOOM, WIDE),
    Hostile("loop_input", "loops", "the number of rounds comes with the unit",
            rounds_from_an_input, LIMITS, {**ONE, "rounds": np.array(2**62)}),
    Hostile("loop_computed", "loops", "the number of rounds is computed", rounds_computed, LIMITS),
]  # fmt: skip


# ---- memory ----------------------------------------------------------------------------------


def summed(nodes: list[onnx.NodeProto], constants: dict[str, object]) -> bytes:
    """The bomb is ``t``; what comes out is small."""
    return model(
        [*nodes, node("ReduceSum", ["t"], ["r"], keepdims=0), node("Add", ["r", "x"], ["y"])],
        constants,
    )


def filled(elements: int, axes: int = 1) -> bytes:
    return summed(
        [node("ConstantOfShape", ["s"], ["t"])], {"s": np.array([elements] * axes, np.int64)}
    )


def filled_from_an_input() -> bytes:
    return model(
        [
            node("ConstantOfShape", ["n"], ["t"]),
            node("ReduceSum", ["t"], ["r"], keepdims=0),
            node("Add", ["r", "x"], ["y"]),
        ],
        inputs=[value("x"), value("n", INT64, [1])],
    )


def resized() -> bytes:
    return model(
        [node("Resize", ["x", "", "scales"], ["y"], mode="linear")],
        {"scales": np.array([1, 1, 60_000, 60_000], np.float32)},
        inputs=[value("x", FLOAT, [1, 1, "h", "w"])],
    )


def outer_product() -> bytes:
    return summed(
        [
            node("Expand", ["x", "s"], ["e"]),
            node("Einsum", ["e", "e", "e"], ["t"], equation="i,j,k->ijk"),
        ],
        {"s": np.array([2000])},
    )


def doubled(times: int) -> bytes:
    nodes = [node("Identity", ["x"], ["c0"])]
    nodes += [node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(times)]
    return summed([*nodes, node("Identity", [f"c{times}"], ["t"])], {})


def one_hot() -> bytes:
    return summed(
        [node("OneHot", ["i", "depth", "values"], ["t"])],
        {"i": np.zeros(4, np.int64), "depth": np.int64(2**30), "values": np.zeros(2, np.float32)},
    )


def folded_memory() -> bytes:
    """Constants that unfold while the model is loaded."""
    return summed(
        [
            node("ConstantOfShape", ["s"], ["a"]),
            node("Expand", ["a", "wide"], ["b"]),
            node("Add", ["b", "b"], ["t"]),
        ],
        {"s": np.array([1, 1], np.int64), "wide": np.array([30_000, 30_000])},
    )


def sequence_grown() -> bytes:
    """A list that holds the same tensor, copied, a hundred thousand times."""
    body = graph(
        [node("Identity", ["go"], ["go2"]), node("SequenceInsert", ["q", "x"], ["q2"])],
        [
            value("i", INT64, []), value("go", BOOL, []),
            helper.make_tensor_sequence_value_info("q", FLOAT, None),
        ],
        [value("go2", BOOL, []), helper.make_tensor_sequence_value_info("q2", FLOAT, None)],
    )  # fmt: skip
    return model(
        [
            node("SequenceEmpty", [], ["empty"], dtype=FLOAT),
            node("Loop", ["rounds", "", "empty"], ["full"], body=body),
            node("ConcatFromSequence", ["full"], ["y"], axis=0),
        ],
        {"rounds": np.int64(100_000)},
    )


MEMORY = [
    Hostile("memory_1_tb", "memory", "a terabyte of zeros", partial(filled, 2**38), SOUND_SHAPES),
    Hostile("memory_overflow", "memory", "2**64 zeros", partial(filled, 2**32, 2), SOUND_SHAPES),
    Hostile("memory_3_gb", "memory", "three gigabytes of zeros", partial(filled, 3 * 2**28), BOOM),
    Hostile("memory_input", "memory", "as many zeros as the unit says", filled_from_an_input, BOOM,
            {**ONE, "n": np.array([2**40])}),
    Hostile("memory_expand", "memory", "Expand",
            lambda: summed([node("Expand", ["x", "s"], ["t"])], {"s": np.array([2**31])}), BOOM),
    Hostile("memory_tile", "memory", "Tile",
            lambda: summed([node("Tile", ["x", "s"], ["t"])], {"s": np.array([2**31])}), BOOM),
    Hostile("memory_range", "memory", "Range",
            lambda: summed([node("Range", ["a", "b", "c"], ["t"])],
                           {"a": np.float32(0), "b": np.float32(4e9), "c": np.float32(1)}), BOOM),
    Hostile("memory_pad", "memory", "Pad",
            lambda: summed([node("Pad", ["x", "p"], ["t"])], {"p": np.array([2**33, 2**33])}),
            BOOM),
    Hostile("memory_resize", "memory", "Resize", resized, BOOM,
            {"x": np.ones((1, 1, 2, 2), np.float32)}),
    Hostile("memory_einsum", "memory", "Einsum", outer_product, BOOM),
    Hostile("memory_concat", "memory", "doubles forty times", partial(doubled, 40), BOOM),
    Hostile("memory_one_hot", "memory", "OneHot of a great depth", one_hot, BOOM),
    Hostile("memory_folding", "memory", "unfolds while it is loaded", folded_memory, BOOM),
    Hostile("memory_sequence", "memory", "a list that grows", sequence_grown, BOOM, WIDE),
    Hostile("output_512_mb", "output", "half a gigabyte of output",
            lambda: model([node("Expand", ["x", "s"], ["y"])], {"s": np.array([2**27])}),
            ("output", "memory")),
    Hostile("output_100_mb", "output", "more output than is allowed",
            lambda: model([node("Expand", ["x", "s"], ["y"])], {"s": np.array([25 * 2**20])}),
            ("output",)),
    Hostile("output_many", "output", "sixty-five outputs",
            lambda: model([node("Identity", ["x"], [f"y{i}"]) for i in range(65)],
                          outputs=[value(f"y{i}") for i in range(65)]), ("model",)),
]  # fmt: skip


# ---- time ------------------------------------------------------------------------------------


def folded_products(side: int = 3000, times: int = 40) -> bytes:
    """Constants that are multiplied out while the model is loaded, or when it runs."""
    nodes = [node("ConstantOfShape", ["s"], ["c0"])]
    nodes += [node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(times)]
    return summed(
        [*nodes, node("Identity", [f"c{times}"], ["t"])],
        {"s": np.array([side, side], np.int64)},
    )


def products(times: int = 2000) -> bytes:
    nodes = [node("Expand", ["x", "s"], ["c0"])]
    nodes += [node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(times)]
    return summed(
        [*nodes, node("Identity", [f"c{times}"], ["t"])], {"s": np.array([600, 600], np.int64)}
    )


def denormals(times: int = 4000) -> bytes:
    """Numbers so small that some CPUs take a hundred times as long."""
    nodes = [node("Mul", ["x", "tiny"], ["c0"])]
    nodes += [node("Mul", [f"c{i}", "less"], [f"c{i + 1}"]) for i in range(times)]
    return summed(
        [*nodes, node("Identity", [f"c{times}"], ["t"])],
        {"tiny": np.float32(1e-39), "less": np.float32(0.999)},
    )


def sorted_often(times: int = 400) -> bytes:
    nodes = [node("Expand", ["x", "s"], ["c0"])]
    for i in range(times):
        nodes.append(node("TopK", [f"c{i}", "s"], [f"c{i + 1}", f"i{i}"]))
    return summed([*nodes, node("Identity", [f"c{times}"], ["t"])], {"s": np.array([10**6])})


def huge_convolution() -> bytes:
    return summed(
        [
            node("Expand", ["x", "image"], ["i"]),
            node("Expand", ["x", "kernel"], ["k"]),
            node("Conv", ["i", "k"], ["t"], kernel_shape=[200, 200]),
        ],
        {"image": np.array([1, 1, 1500, 1500]), "kernel": np.array([64, 1, 200, 200])},
    )


TIME = [
    Hostile("time_folding", "time", "products while it is loaded", folded_products, BOOM),
    Hostile("time_products", "time", "2000 products", products, BOOM),
    # Which of the two depends on the CPU: many compute with denormals at full speed.
    Hostile("time_denormals", "time", "denormal numbers", denormals, (*BOOM, RUNS), WIDE),
    Hostile("time_sorting", "time", "sorts a million numbers 400 times", sorted_often, BOOM),
    Hostile("time_convolution", "time", "a convolution with a huge kernel",
            huge_convolution, BOOM),
]  # fmt: skip


# ---- size ------------------------------------------------------------------------------------


def chain(length: int) -> bytes:
    """So many nodes in a row."""
    whole = proto([])
    rest: bytes = whole.graph.SerializeToString()
    whole.ClearField("graph")
    return bytes(whole.SerializeToString()) + field(7, chain_of(length, "y") + rest)


def chain_in_a_branch(length: int) -> bytes:
    """The same in one branch of a choice, whose other one has a single node."""
    rest: bytes = branch([]).SerializeToString()
    other: bytes = branch([node("Identity", ["x"], ["o"])]).SerializeToString()
    choice = field(1, b"c") + field(2, b"y") + field(4, b"If")
    for name, body in ((b"then_branch", chain_of(length, "o") + rest), (b"else_branch", other)):
        choice += field(5, field(1, name) + field(20, 5) + field(6, body))
    whole = proto([], inputs=[value("x"), value("c", BOOL, [])])
    graph_rest: bytes = whole.graph.SerializeToString()
    whole.ClearField("graph")
    return bytes(whole.SerializeToString()) + field(7, field(1, choice) + graph_rest)


def nested_choices(levels: int) -> bytes:
    inner = branch([node("Identity", ["x"], ["o"])])
    plain = branch([node("Neg", ["x"], ["o"])])
    for _ in range(levels):
        choice = node("If", ["c"], ["o"], then_branch=inner, else_branch=plain)
        inner = branch([choice])
    choice.output[0] = "y"
    return model([choice], inputs=[value("x"), value("c", BOOL, [])])


def many_inputs(count: int) -> bytes:
    return model([node("Concat", ["x"] * count, ["y"], axis=0)])


def many_outputs(count: int) -> bytes:
    names = [f"o{i}" for i in range(count)]
    return model([node("Split", ["x"], names, axis=0), node("Identity", [names[0]], ["y"])])


def many_attributes(count: int) -> bytes:
    return model([node("Neg", ["x"], ["y"], **{f"a{i}": i for i in range(count)})])


def many_notes(count: int) -> bytes:
    whole = onnx.load_from_string(model([node("Neg", ["x"], ["y"])]))
    for i in range(count):
        whole.metadata_props.add(key=f"k{i}", value="v")
    data: bytes = whole.SerializeToString()
    return data


def laughs(levels: int, times: int) -> bytes:
    """Each function calls the one before it ``times`` times."""
    functions = [function("F0", [node("Neg", ["a"], ["o"])])]
    for level in range(1, levels):
        names = ["a", *(f"t{i}" for i in range(times - 1)), "o"]
        functions.append(
            function(
                f"F{level}",
                [
                    node(f"F{level - 1}", [names[i]], [names[i + 1]], domain="local")
                    for i in range(times)
                ],
            )
        )
    return model(
        [node(f"F{levels - 1}", ["x"], ["y"], domain="local")],
        functions=functions,
        imports={"local": 1},
    )


def recursive(ring: int) -> bytes:
    """``ring`` functions that call each other in turn."""
    return model(
        [node("F0", ["x"], ["y"], domain="local")],
        functions=[
            function(f"F{i}", [node(f"F{(i + 1) % ring}", ["a"], ["o"], domain="local")])
            for i in range(ring)
        ],
        imports={"local": 1},
    )


def recursive_in_a_branch() -> bytes:
    again = branch([node("F", ["a"], ["o"], domain="local")])
    stop = branch([node("Identity", ["a"], ["o"])])
    body = [
        node("Cast", ["a"], ["c"], to=BOOL),
        node("If", ["c"], ["o"], then_branch=again, else_branch=stop),
    ]
    return model(
        [node("F", ["x"], ["y"], domain="local")],
        functions=[function("F", body)],
        imports={"local": 1},
    )


SIZE = [
    Hostile("size_chain", "size", "a hundred thousand nodes", partial(chain, 100_000),
            BOUNDED_SIZE),
    Hostile("size_chain_branch", "size", "the same inside a branch",
            partial(chain_in_a_branch, 100_000), BOUNDED_SIZE, {**ONE, **TRUTH}),
    Hostile("size_nested", "size", "choices within choices, twenty levels",
            partial(nested_choices, 20), BOUNDED_SIZE, {**ONE, **TRUTH}),
    Hostile("size_inputs", "size", "a node with 200,000 inputs", partial(many_inputs, 200_000),
            BOUNDED_SIZE),
    Hostile("size_outputs", "size", "a node with 100,000 outputs", partial(many_outputs, 100_000),
            BOUNDED_SIZE),
    Hostile("size_attributes", "size", "a node with 20,000 attributes",
            partial(many_attributes, 20_000), BOUNDED_SIZE),
    Hostile("size_metadata", "size", "200,000 notes", partial(many_notes, 200_000), BOUNDED_SIZE),
    Hostile("function_laughs", "functions", "ten calls, ten levels deep", partial(laughs, 10, 10),
            BOUNDED_FUNCTIONS),
    Hostile("function_wide_laughs", "functions", "a thousand calls, four levels deep",
            partial(laughs, 4, 1000), BOUNDED_FUNCTIONS),
    Hostile("function_deep", "functions", "a thousand levels deep", partial(laughs, 1000, 1),
            BOUNDED_FUNCTIONS),
    Hostile("function_recursive", "functions", "calls itself", partial(recursive, 1),
            BOUNDED_FUNCTIONS),
    Hostile("function_ring", "functions", "five that call each other", partial(recursive, 5),
            BOUNDED_FUNCTIONS),
    Hostile("function_branch", "functions", "calls itself from a branch", recursive_in_a_branch,
            BOUNDED_FUNCTIONS),
]  # fmt: skip

BOMBS: list[Hostile] = [*LOOPS, *MEMORY, *TIME, *SIZE]
