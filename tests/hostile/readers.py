"""Models that read what is not theirs, bring code or chance along, or deal in more than numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .building import (
    BOOL,
    FLOAT,
    INT64,
    ONE,
    STRING,
    UINT8,
    branch,
    external,
    function,
    graph,
    model,
    node,
    proto,
    value,
)
from .catalogue import Hostile

ONE_FILE = ("one file",)
STANDARD = ("standard operators",)
DETERMINISTIC = ("deterministic operators",)
NUMBERS = ("numbers only",)
TENSORS = ("tensors in and out",)

TRUTH = {"c": np.array(True)}
CONDITION = value("c", BOOL, [])


# ---- external data ---------------------------------------------------------------------------


def reads(location: str, **entries: str) -> bytes:
    """y = 16 bytes of a file."""
    return model(
        [node("Identity", ["w"], ["y"])],
        {"w": external(location, **entries)},
        inputs=[],
        outputs=[value("y", UINT8, [16])],
    )


def in_a_constant() -> bytes:
    return model(
        [node("Constant", [], ["y"], value=external("etc/passwd"))],
        inputs=[],
        outputs=[value("y", UINT8, [16])],
    )


def in_a_branch(levels: int = 1) -> bytes:
    inner = graph(
        [node("Identity", ["w"], ["o"])],
        [],
        [value("o", UINT8, None)],
        {"w": external("etc/passwd")},
    )
    plain = branch([node("Constant", [], ["o"], value=numpy_helper.from_array(np.zeros(16, "u1")))])
    for _ in range(levels):
        choice = node("If", ["c"], ["o"], then_branch=inner, else_branch=plain)
        inner = graph([choice], [], [value("o", UINT8, None)])
    choice.output[0] = "y"
    return model([choice], inputs=[CONDITION], outputs=[value("y", UINT8, None)])


def in_a_function() -> bytes:
    return model(
        [node("Leak", [], ["y"], domain="local")],
        inputs=[],
        outputs=[value("y", UINT8, None)],
        functions=[
            function("Leak", [node("Constant", [], ["o"], value=external("etc/passwd"))], inputs=())
        ],
        imports={"local": 1},
    )


def in_a_call_of_a_function() -> bytes:
    """The function takes its tensor from an attribute of the node that calls it."""
    constant = node("Constant", [], ["o"])
    constant.attribute.add(name="value", ref_attr_name="given", type=onnx.AttributeProto.TENSOR)
    leak = function("Leak", [constant], inputs=())
    leak.attribute.append("given")
    return model(
        [node("Leak", [], ["y"], domain="local", given=external("etc/passwd"))],
        inputs=[],
        outputs=[value("y", UINT8, None)],
        functions=[leak],
        imports={"local": 1},
    )


def sparse(part: str) -> bytes:
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "w_indices")
    tensor = values if part == "values" else indices
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="etc/passwd")
    whole = proto([node("Add", ["x", "w"], ["y"])])
    whole.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    data: bytes = whole.SerializeToString()
    return data


def in_a_list_of_tensors() -> bytes:
    odd = node("Identity", ["x"], ["y"])
    odd.attribute.append(helper.make_attribute("extra", [external("etc/passwd")]))
    return model([odd])


def not_called_external() -> bytes:
    """The entries are there, but the tensor says that its data are its own."""
    tensor = external("etc/passwd")
    tensor.data_location = TensorProto.DEFAULT
    return model(
        [node("Identity", ["w"], ["y"])],
        {"w": tensor},
        inputs=[],
        outputs=[value("y", UINT8, [16])],
    )


def for_training() -> bytes:
    whole = proto([node("Identity", ["x"], ["y"])])
    whole.training_info.add().initialization.CopyFrom(
        graph([node("Identity", ["w"], ["t"])], [], [], {"w": external("etc/passwd")})
    )
    data: bytes = whole.SerializeToString()
    return data


LOCATIONS = {
    "absolute": "/etc/passwd", "dot_dot": "../../../../etc/passwd", "relative": "etc/passwd",
    "there_and_back": "a/b/../../../../etc/passwd", "environment": "/proc/self/environ",
    "own_memory": "proc/self/mem", "endless": "/dev/zero", "never_answers": "dev/stdin",
    "through_a_link": "proc/self/root/etc/passwd", "own_code": "boot.py", "empty": "",
    "windows": "..\\..\\etc\\passwd", "url": "file:///etc/passwd",
}  # fmt: skip

EXTERNAL = [
    *(
        Hostile(
            f"external_{name}", "external data", f"reads {location!r}",
            partial(reads, location), ONE_FILE, {},
        )
        for name, location in LOCATIONS.items()
    ),
    Hostile("external_memory_address", "external data", "reads an address of the process",
            partial(reads, "*/_ORT_MEM_ADDR_/*", offset="140733193388032"), ONE_FILE, {}),
    Hostile("external_native_address", "external data", "the same, by its newer name",
            partial(reads, "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*", offset="4096"), ONE_FILE, {}),
    Hostile("external_negative_offset", "external data", "an offset before the file",
            partial(reads, "etc/passwd", offset="-16"), ONE_FILE, {}),
    Hostile("external_constant", "external data", "inside a Constant", in_a_constant, ONE_FILE, {}),
    Hostile("external_branch", "external data", "inside a branch of an If",
            in_a_branch, ONE_FILE, TRUTH),
    Hostile("external_nested_branch", "external data", "inside a branch four levels down",
            partial(in_a_branch, 4), ONE_FILE, TRUTH),
    Hostile("external_function", "external data", "inside a function of its own",
            in_a_function, ONE_FILE, {}),
    Hostile("external_call", "external data", "given to a function as an attribute",
            in_a_call_of_a_function, ONE_FILE, {}),
    Hostile("external_sparse_values", "external data", "as the values of a sparse tensor",
            partial(sparse, "values"), ONE_FILE),
    Hostile("external_sparse_indices", "external data", "as the indices of a sparse tensor",
            partial(sparse, "indices"), ONE_FILE),
    Hostile("external_tensor_list", "external data", "in a list of tensors nobody asked for",
            in_a_list_of_tensors, ONE_FILE),
    Hostile("external_unsaid", "external data", "entries without the mark",
            not_called_external, ONE_FILE, {}),
    Hostile("external_training", "external data", "in the part for training",
            for_training, ("one file", "inference only")),
]  # fmt: skip


# ---- foreign operators -----------------------------------------------------------------------


def foreign(domain: str, op: str, imported: str | None = None, **attributes: object) -> bytes:
    return model(
        [node(op, ["x"], ["y"], domain=domain, **attributes)],
        imports={domain if imported is None else imported: 1},
    )


def foreign_in_a_branch() -> bytes:
    then = branch([node("Gelu", ["x"], ["o"], domain="com.microsoft")])
    other = branch([node("Identity", ["x"], ["o"])])
    return model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        inputs=[value("x"), CONDITION],
        imports={"com.microsoft": 1},
    )


def context(**attributes: object) -> bytes:
    return foreign(
        "com.microsoft", "EPContext", embed_mode=0, ep_cache_context="/etc/passwd", **attributes
    )


def borrowed_name(domain: str, op: str) -> bytes:
    """A function of its own under the name of an operator of onnxruntime."""
    return model(
        [node(op, ["x"], ["y"], domain=domain)],
        functions=[function(op, [node("Neg", ["a"], ["o"])], domain=domain)],
        imports={domain: 1} if domain else {},
    )


FOREIGN = [
    Hostile("foreign_domain", "foreign operators", "an operator that nobody knows",
            partial(foreign, "evil.ops", "Pwn"), STANDARD),
    Hostile("foreign_contrib", "foreign operators", "an operator of onnxruntime's own",
            partial(foreign, "com.microsoft", "Gelu"), STANDARD),
    Hostile("foreign_unimported", "foreign operators", "the same without importing it",
            partial(foreign, "com.microsoft", "Gelu", "ai.onnx.ml"), STANDARD),
    Hostile("foreign_branch", "foreign operators", "the same inside a branch",
            foreign_in_a_branch, STANDARD, {**ONE, **TRUTH}),
    Hostile("foreign_context", "foreign operators", "a compiled context read from a path",
            context, STANDARD),
    Hostile("foreign_context_source", "foreign operators", "the same, for a named accelerator",
            partial(context, source="QNN", main_context=1), STANDARD),
    Hostile("foreign_torch", "foreign operators", "an operator that calls into PyTorch",
            partial(foreign, "org.pytorch.aten", "ATen", operator="relu"), STANDARD),
    Hostile("foreign_internal", "foreign operators", "an operator of onnxruntime's optimiser",
            partial(foreign, "com.microsoft.nchwc", "ReorderInput"), STANDARD),
    Hostile("foreign_training", "foreign operators", "an operator for training",
            partial(foreign, "ai.onnx.preview.training", "Gradient", y="x", xs=["x"]), STANDARD),
    Hostile("foreign_extension", "foreign operators", "an operator of an extension library",
            partial(foreign, "ai.onnx.contrib", "PyOp"), STANDARD),
    Hostile("foreign_import", "foreign operators", "imports a domain that it does not use",
            lambda: model([node("Neg", ["x"], ["y"])], imports={"evil.ops": 1}), STANDARD),
    Hostile("foreign_look_alike", "foreign operators", "a domain that looks like ONNX's own",
            partial(foreign, "ai.\N{CYRILLIC SMALL LETTER O}nnx", "Neg"), STANDARD),
    Hostile("foreign_new_relu", "foreign operators", "its own function in place of Relu",
            partial(borrowed_name, "", "Relu"), STANDARD),
    Hostile("foreign_new_context", "foreign operators", "its own function in place of EPContext",
            partial(borrowed_name, "com.microsoft", "EPContext"), STANDARD),
]  # fmt: skip


# ---- chance ----------------------------------------------------------------------------------


def chance(op: str, *, takes_input: bool, **attributes: object) -> bytes:
    return model([node(op, ["x"] if takes_input else [], ["y"], **attributes)])


def multinomial() -> bytes:
    return model(
        [node("Unsqueeze", ["x", "zero"], ["r"]), node("Multinomial", ["r"], ["y"], sample_size=9)],
        {"zero": np.zeros(1, np.int64)},
        outputs=[value("y", TensorProto.INT32, None)],
    )


def dropout(how: str) -> bytes:
    constants = {"ratio": np.float32(0.5)}
    nodes = []
    inputs = [value("x")]
    if how == "constant":
        nodes = [node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True)))]
    elif how == "initialiser":
        constants["t"] = np.array(True)
    elif how == "input":
        inputs.append(value("t", BOOL, []))
    else:
        nodes = [
            node("Shape", ["x"], ["s"]),
            node("Size", ["s"], ["n"]),
            node("Cast", ["n"], ["t"], to=BOOL),
        ]
    return model([*nodes, node("Dropout", ["x", "ratio", "t"], ["y"])], constants, inputs=inputs)


def chance_in_a_branch() -> bytes:
    then = branch([node("RandomUniformLike", ["x"], ["o"])])
    other = branch([node("Identity", ["x"], ["o"])])
    return model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        inputs=[value("x"), CONDITION],
    )


def chance_in_a_function() -> bytes:
    return model(
        [node("Roll", ["x"], ["y"], domain="local")],
        functions=[function("Roll", [node("RandomNormalLike", ["a"], ["o"])])],
        imports={"local": 1},
    )


HALVES = {"x": np.full(64, 0.5, np.float32)}

CHANCE = [
    Hostile("chance_normal", "chance", "normal numbers",
            partial(chance, "RandomNormal", takes_input=False, shape=[4]), DETERMINISTIC),
    Hostile("chance_seeded", "chance", "with a seed: the same only on a session's first run",
            partial(chance, "RandomNormal", takes_input=False, shape=[4], seed=1.0), DETERMINISTIC),
    Hostile("chance_uniform", "chance", "uniform numbers",
            partial(chance, "RandomUniform", takes_input=False, shape=[4]), DETERMINISTIC),
    Hostile("chance_normal_like", "chance", "as many normal numbers as x has",
            partial(chance, "RandomNormalLike", takes_input=True), DETERMINISTIC),
    Hostile("chance_uniform_like", "chance", "as many uniform numbers as x has",
            partial(chance, "RandomUniformLike", takes_input=True), DETERMINISTIC),
    Hostile("chance_bernoulli", "chance", "tosses a coin",
            partial(chance, "Bernoulli", takes_input=True), DETERMINISTIC, HALVES),
    Hostile("chance_multinomial", "chance", "draws lots", multinomial, DETERMINISTIC, HALVES),
    *(
        Hostile(f"chance_dropout_{how}", "chance", f"Dropout as in training, told by {how}",
                partial(dropout, how), DETERMINISTIC,
                HALVES if how != "input" else {**HALVES, "t": np.array(True)})
        for how in ("constant", "initialiser", "input", "computation")
    ),
    Hostile("chance_branch", "chance", "inside a branch",
            chance_in_a_branch, DETERMINISTIC, {**ONE, **TRUTH}),
    Hostile("chance_function", "chance", "inside a function of its own",
            chance_in_a_function, DETERMINISTIC),
]  # fmt: skip


# ---- text ------------------------------------------------------------------------------------


def strings_doubled(times: int = 40) -> bytes:
    """Text that grows twice as long ``times`` times."""
    return model(
        [
            *(node("StringConcat", [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(times)),
            node("Equal", [f"s{times}", "s0"], ["b"]),
            node("Cast", ["b"], ["y"], to=FLOAT),
        ],
        {"s0": np.array(["boom"], object)},
        opset=20,
    )


def cast_and_back(**to: object) -> bytes:
    return model(
        [node("Cast", ["x"], ["s"], **to), node("Cast", ["s"], ["y"], to=FLOAT)],
    )


def cast_in_a_function() -> bytes:
    """Which type it casts to comes from the node that calls it."""
    cast = node("Cast", ["a"], ["s"])
    cast.attribute.add(name="to", ref_attr_name="kind", type=onnx.AttributeProto.INT)
    body = function("Write", [cast, node("Cast", ["s"], ["o"], to=FLOAT)])
    body.attribute.append("kind")
    return model(
        [node("Write", ["x"], ["y"], domain="local", kind=STRING)],
        functions=[body],
        imports={"local": 1},
    )


def labels() -> bytes:
    encoder = node(
        "LabelEncoder", ["x"], ["s"], domain="ai.onnx.ml", keys_floats=[1.0], values_strings=["a"]
    )
    back = node(
        "LabelEncoder", ["s"], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_floats=[1.0]
    )
    return model([encoder, back], imports={"ai.onnx.ml": 3})


def constant_text(**attributes: object) -> bytes:
    return model(
        [
            node("Constant", [], ["s"], **attributes),
            node("Size", ["s"], ["n"]),
            node("Cast", ["n"], ["f"], to=FLOAT),
            node("Add", ["f", "x"], ["y"]),
        ]
    )


def normalized() -> bytes:
    return model(
        [
            node("StringNormalizer", ["s"], ["t"], case_change_action="UPPER", locale="en_US"),
            node("Shape", ["t"], ["y"]),
        ],
        {"s": np.array(["x"], object)},
        outputs=[value("y", INT64, [1])],
    )


def text_op(op: str, outputs: list[str], **attributes: object) -> bytes:
    return model(
        [node(op, ["s"], outputs, **attributes), node("Shape", [outputs[0]], ["y"])],
        inputs=[value("s", STRING, ["n"])],
        outputs=[value("y", INT64, None)],
        opset=20,
    )


TEXT = [
    Hostile("text_doubling", "text", "text that fills the memory", strings_doubled, NUMBERS),
    Hostile("text_cast", "text", "numbers written out", partial(cast_and_back, to=STRING), NUMBERS),
    Hostile("text_cast_by_name", "text", "the type said as opset 1 said it",
            partial(cast_and_back, to="STRING"), NUMBERS),
    Hostile("text_cast_function", "text", "the type given to a function",
            cast_in_a_function, NUMBERS),
    Hostile("text_labels", "text", "numbers for words", labels, NUMBERS),
    Hostile("text_constant", "text", "a word", partial(constant_text, value_string="a"), NUMBERS),
    Hostile("text_constants", "text", "words",
            partial(constant_text, value_strings=["a", "b"]), NUMBERS),
    Hostile("text_tensor", "text", "a tensor of words",
            partial(constant_text, value=numpy_helper.from_array(np.array(["a"], object))),
            NUMBERS),
    Hostile("text_normalizer", "text", "the locale of this machine", normalized, NUMBERS),
    Hostile("text_regex", "text", "a regular expression that takes for ever",
            partial(text_op, "RegexFullMatch", ["t"], pattern="(a+)+b"),
            ("numbers only", "tensors in and out"), {}),
    Hostile("text_split", "text", "text in parts",
            partial(text_op, "StringSplit", ["t", "k"], delimiter=","),
            ("numbers only", "tensors in and out"), {}),
]  # fmt: skip


# ---- what cannot travel ----------------------------------------------------------------------


def typed(side: str, kind: onnx.TypeProto) -> bytes:
    info = helper.make_value_info("v", kind)
    if side == "input":
        return model([node("Neg", ["x"], ["y"])], inputs=[value("x"), info])
    op = {
        "sequence_type": node("SequenceConstruct", ["x", "x"], ["v"]),
        "optional_type": node("Optional", ["x"], ["v"]),
        "map_type": node("Identity", ["x"], ["v"]),
        "sparse_tensor_type": node("Identity", ["x"], ["v"]),
    }[kind.WhichOneof("value")]
    return model([op], outputs=[info])


def maps() -> bytes:
    zip_map = node("ZipMap", ["x2"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    )
    return model(
        [node("Unsqueeze", ["x", "zero"], ["x2"]), zip_map],
        {"zero": np.zeros(1, np.int64)},
        outputs=[helper.make_value_info("y", kind)],
        imports={"ai.onnx.ml": 3},
    )


_ELEMENT = helper.make_tensor_type_proto(FLOAT, ["n"])
TYPES = {
    "sequence": helper.make_sequence_type_proto(_ELEMENT),
    "optional": helper.make_optional_type_proto(_ELEMENT),
    "map": helper.make_map_type_proto(INT64, _ELEMENT),
    "sparse": helper.make_sparse_tensor_type_proto(FLOAT, ["n"]),
}

UNTRAVELLED = [
    *(
        Hostile(f"{side}_{name}", "inputs and outputs", f"an {side} that is no tensor: {name}",
                partial(typed, side, kind), TENSORS)
        for side in ("input", "output") for name, kind in TYPES.items()
    ),
    Hostile("output_maps", "inputs and outputs", "a sequence of maps", maps, TENSORS),
    Hostile("input_text", "inputs and outputs", "a tensor of text",
            lambda: model([node("Shape", ["s"], ["y"])], inputs=[value("s", STRING)],
                          outputs=[value("y", INT64, [1])]), TENSORS, {}),
    Hostile("output_complex", "inputs and outputs", "a tensor of complex numbers",
            lambda: model([node("Identity", ["z"], ["y"])],
                          {"z": np.zeros(2, np.complex64)},
                          outputs=[value("y", TensorProto.COMPLEX64, [2])]), TENSORS),
]  # fmt: skip

READERS: list[Hostile] = [*EXTERNAL, *FOREIGN, *CHANCE, *TEXT, *UNTRAVELLED]
