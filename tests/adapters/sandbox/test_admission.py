"""Every admission rule, hit and just missed, and the sentence that tells the publisher."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from p2pfleet.adapters.sandbox.inside.admission import Admitted, Refusal, admit
from p2pfleet.adapters.sandbox.inside.admission.onnx_graph import (
    MAX_ATTRIBUTES,
    MAX_FUNCTIONS,
    MAX_METADATA,
    MAX_NESTING,
    MAX_NODES,
    MAX_PORTS,
)
from p2pfleet.adapters.sandbox.inside.admission.onnx_tensor import MAX_AXES
from p2pfleet.adapters.sandbox.inside.admission.walk import MAX_CALLS, MAX_ROUNDS
from p2pfleet.adapters.sandbox.inside.terms import MAX_REASON_CHARS
from tests.hostile import HOSTILE, Hostile, bombs, malformed, overflowing, readers
from tests.hostile.building import (
    BOOL,
    FLOAT,
    INT64,
    STRING,
    branch,
    field,
    function,
    loop_body,
    model,
    node,
    proto,
    value,
)

from . import admission_models

X = ["x"]
Y = ["y"]


def sentence(data: bytes, *, contrib_ops: bool = False) -> str:
    """What a publisher would read; empty if the model is admitted."""
    try:
        admit(data, contrib_ops=contrib_ops)
    except Refusal as refusal:
        told, broken = str(refusal), refusal.rule
    else:
        return ""
    assert f'breaks the rule "{broken}": ' in told
    assert len(told) < MAX_REASON_CHARS
    return told


def rule(data: bytes, *, contrib_ops: bool = False) -> str:
    return sentence(data, contrib_ops=contrib_ops).partition('the rule "')[2].partition('"')[0]


def one(op: str, inputs: list[str] | None = None, **attributes: Any) -> bytes:
    return model([node(op, X if inputs is None else inputs, Y, **attributes)])


# ---- the catalogue ---------------------------------------------------------------------------

RULES = (
    "one file", "standard operators", "deterministic operators", "numbers only",
    "tensors in and out", "bounded loops", "bounded functions", "bounded size", "sound shapes",
    "sound attributes", "reproducible products", "inference only", "no settings", "an ONNX model",
)  # fmt: skip


@functools.cache
def rule_against(hostile: str) -> str:
    """Some take a second to build."""
    return rule(next(entry for entry in HOSTILE if entry.name == hostile).model())


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_model_is_refused_by_its_rule_or_left_to_the_limits(hostile: Hostile) -> None:
    broken = rule_against(hostile.name)
    if broken:
        assert broken in hostile.ends
    else:
        assert set(hostile.ends) - set(RULES), "a rule should have refused it"


def test_every_rule_refuses_something_of_the_catalogue() -> None:
    assert {rule_against(hostile.name) for hostile in HOSTILE} - {""} >= set(RULES) - {
        "inference only"
    }


# ---- sentences -------------------------------------------------------------------------------


def test_a_sentence_names_the_node_by_its_name_or_its_number() -> None:
    body = loop_body([node("Neg", ["v"], ["v2"])])
    named = node("Loop", ["", "", "x"], ["y"], name="loop_3", body=body)
    missing = 'breaks the rule "bounded loops": its trip count is missing'
    assert sentence(model([named])) == f"node 'loop_3' (Loop) {missing}"
    named.name = ""
    before = node("Identity", ["x"], ["before"])
    assert sentence(model([before, named])) == f"node 1 (Loop) {missing}"


def test_a_sentence_names_the_branch_and_the_function() -> None:
    then = branch([node("Bernoulli", ["x"], ["o"], name="coin")])
    other = branch([node("Neg", ["x"], ["o"])])
    choice = node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other)
    assert sentence(model([choice], inputs=[value("x"), value("c", BOOL, [])])).startswith(
        "node 'coin' (Bernoulli) in attribute 'then_branch' in node 'choice' (If) breaks "
    )
    assert sentence(readers.chance_in_a_function()).startswith(
        "node 0 (RandomNormalLike) in function 'local.Roll' breaks "
    )


def test_a_sentence_stays_short_and_printable_whatever_the_names() -> None:
    for name in ("n" * 100_000, "\n\r\0\x1b[2J", "\N{RIGHT-TO-LEFT OVERRIDE}evil", "'\"" * 50):
        told = sentence(model([node("Bernoulli", X, Y, name=name)]))
        assert 20 < len(told) < MAX_REASON_CHARS
        assert told.isprintable()
        told = sentence(one("Pwn" + name, domain="evil" + name))
        assert 20 < len(told) < MAX_REASON_CHARS
        assert told.isprintable()


# ---- operators -------------------------------------------------------------------------------


def test_onnxruntimes_own_operators_are_the_owners_choice_but_never_its_loaders() -> None:
    def contrib(op: str, **attributes: Any) -> bytes:
        return model(
            [node(op, X, Y, domain="com.microsoft", **attributes)], imports={"com.microsoft": 1}
        )

    assert rule(contrib("Gelu")) == "standard operators"
    assert rule(contrib("Gelu"), contrib_ops=True) == ""
    for loader in ("EPContext", "Snpe"):
        assert rule(contrib(loader), contrib_ops=True) == "standard operators"
    for random in ("Sampling", "BitmaskDropout", "BiasDropout"):
        assert rule(contrib(random), contrib_ops=True) == "deterministic operators"
    assert rule(contrib("Tokenizer"), contrib_ops=True) == "numbers only"
    assert (
        rule(readers.foreign("com.microsoft.nchwc", "ReorderInput"), contrib_ops=True)
        == "standard operators"
    )


def test_onnxs_domain_has_two_names() -> None:
    both = model([node("Neg", X, Y, domain="ai.onnx")], imports={"ai.onnx": 17})
    assert rule(both) == ""
    assert rule(model([node("Bernoulli", X, Y, domain="ai.onnx")])) == "deterministic operators"


def test_a_function_may_not_take_the_place_of_an_operator() -> None:
    for domain in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.x"):
        assert rule(readers.borrowed_name(domain, "Relu")) == "standard operators"
    for domain in ("local", "ai.onnxruntime", "pkg.torch", "com.microsofter"):
        assert rule(readers.borrowed_name(domain, "Relu")) == ""


def test_a_function_of_its_own_may_bear_any_name() -> None:
    for name in ("Bernoulli", "Loop", "Tokenizer", "EPContext", "ConstantOfShape"):
        assert rule(readers.borrowed_name("local", name)) == ""


def test_an_overload_that_is_not_there_is_a_foreign_operator() -> None:
    call = node("F", X, Y, domain="local")
    body = function("F", [node("Neg", ["a"], ["o"])])
    assert rule(model([call], functions=[body], imports={"local": 1})) == ""
    call.overload = "other"
    assert rule(model([call], functions=[body], imports={"local": 1})) == "standard operators"


# ---- chance ----------------------------------------------------------------------------------


def dropout(*mode: str, **constants: Any) -> bytes:
    return model(
        [node("Dropout", ["x", "ratio", *mode], Y)],
        {"ratio": np.float32(0.5), **constants},
        inputs=[value("x"), value("given", BOOL, [])],
    )


def test_dropout_is_admitted_where_it_certainly_does_nothing() -> None:
    assert rule(one("Dropout", ratio=0.5)) == ""
    assert rule(dropout()) == ""
    assert rule(dropout("")) == ""
    assert rule(dropout("off", off=np.array(False))) == ""
    assert rule(dropout("off", off=np.array(True))) == "deterministic operators"
    assert rule(dropout("given")) == "deterministic operators"
    assert rule(dropout("nobody")) == "deterministic operators"


def in_a_body(mode_name: str, **inner: Any) -> bytes:
    """A Dropout in a loop whose outer name ``off`` is false."""
    body = loop_body([node("Dropout", ["v", "", mode_name], ["v2"])])
    for name, given in inner.items():
        body.initializer.append(numpy_helper.from_array(np.asarray(given), name))
    return model(
        [node("Loop", ["three", "", "x"], Y, body=body)],
        {"three": np.int64(3), "off": np.array(False)},
    )


def test_a_constant_counts_only_where_it_is_the_one_that_is_meant() -> None:
    assert rule(in_a_body("off")) == ""
    assert rule(in_a_body("off", off=True)) == "deterministic operators"
    assert rule(in_a_body("go")) == "deterministic operators"
    # The loop's own value, with a default that is never used.
    assert rule(in_a_body("go", go=False)) == "deterministic operators"
    # The last of two initialisers counts in onnxruntime.
    twice = onnx.load_from_string(dropout("off", off=np.array(False)))
    twice.graph.initializer.append(numpy_helper.from_array(np.array(True), "off"))
    assert rule(twice.SerializeToString()) == "deterministic operators"


# ---- text ------------------------------------------------------------------------------------


def test_text_is_told_from_numbers() -> None:
    assert rule(one("Cast", to=FLOAT)) == ""
    assert rule(one("Cast", to=STRING)) == "numbers only"
    ml = {"domain": "ai.onnx.ml"}
    assert rule(one("LabelEncoder", **ml, keys_int64s=[1], values_floats=[2.0])) == ""
    assert rule(one("LabelEncoder", **ml, keys_int64s=[1], values_strings=["a"])) == "numbers only"
    trees = {"nodes_modes": ["LEAF"], "classlabels_int64s": [1]}
    assert rule(one("TreeEnsembleClassifier", **ml, **trees)) == ""
    trees = {"nodes_modes": ["LEAF"], "classlabels_strings": ["a"]}
    assert rule(one("TreeEnsembleClassifier", **ml, **trees)) == "numbers only"
    words = {"mode": "TF", "ngram_counts": [0], "ngram_indexes": [0]}
    assert rule(one("TfIdfVectorizer", **words, pool_int64s=[1])) == ""
    assert rule(one("TfIdfVectorizer", **words, pool_strings=["a"])) == "numbers only"


def casting_function(kind: int, hops: int) -> bytes:
    """A cast whose type is handed down through so many functions, each time by another name."""
    cast = node("Cast", ["a"], ["o"])
    cast.attribute.add(name="to", ref_attr_name="p0", type=onnx.AttributeProto.INT)
    functions = [function("F0", [cast])]
    for hop in range(1, hops + 1):
        call = node(f"F{hop - 1}", ["a"], ["o"], domain="local")
        call.attribute.add(
            name=f"p{hop - 1}", ref_attr_name=f"p{hop}", type=onnx.AttributeProto.INT
        )
        functions.append(function(f"F{hop}", [call]))
    for hop, body in enumerate(functions):
        body.attribute.append(f"p{hop}")
    return model(
        [node(f"F{hops}", X, Y, domain="local", **{f"p{hops}": kind, "heads": 8})],
        functions=functions,
        imports={"local": 1},
    )


def test_a_type_handed_to_a_function_is_followed() -> None:
    for hops in (0, 1, 3):
        assert rule(casting_function(STRING, hops)) == "numbers only"
        assert rule(casting_function(FLOAT, hops)) == ""


def test_a_default_of_a_function_counts_as_well() -> None:
    cast = node("Cast", ["a"], ["o"])
    cast.attribute.add(name="to", ref_attr_name="kind", type=onnx.AttributeProto.INT)
    for kind, broken in ((STRING, "numbers only"), (FLOAT, "")):
        body = function("F", [cast])
        body.attribute_proto.append(helper.make_attribute("kind", kind))
        data = model([node("F", X, Y, domain="local")], functions=[body], imports={"local": 1})
        assert rule(data) == broken


# ---- loops -----------------------------------------------------------------------------------


def test_a_loop_may_go_as_often_as_a_day_allows() -> None:
    assert rule(bombs.endless(MAX_ROUNDS)) == ""
    assert rule(bombs.endless(MAX_ROUNDS + 1)) == "bounded loops"
    assert rule(bombs.endless(0)) == ""
    assert rule(bombs.endless(-5)) == ""
    assert rule(bombs.rounds_from_an_input()) == ""
    assert rule(bombs.rounds_computed()) == ""
    assert rule(bombs.rounds_in_a_constant(value_int=MAX_ROUNDS)) == ""
    assert rule(bombs.rounds_in_a_constant(value_int=MAX_ROUNDS + 1)) == "bounded loops"
    many = numpy_helper.from_array(np.array(MAX_ROUNDS + 1))
    assert rule(bombs.rounds_in_a_constant(value=many)) == "bounded loops"


def test_loops_within_loops_are_multiplied() -> None:
    assert 4096**3 <= MAX_ROUNDS < 4096**4
    assert rule(bombs.loops_in_loops(4096, 3)) == ""
    assert rule(bombs.loops_in_loops(4096, 4)) == "bounded loops"
    assert 80**6 <= MAX_ROUNDS < 81**6
    assert rule(bombs.loops_in_functions(80)) == ""
    assert rule(bombs.loops_in_functions(81)) == "bounded loops"


# ---- functions and size ----------------------------------------------------------------------


def test_functions_are_counted_as_if_written_out() -> None:
    assert rule(bombs.laughs(5, 10)) == ""
    assert rule(bombs.laughs(6, 10)) == "bounded functions"
    assert rule(bombs.laughs(2, MAX_NODES // 2 - 4)) == ""
    assert rule(bombs.laughs(2, MAX_NODES // 2 + 4)) == "bounded functions"


def test_functions_may_call_functions_so_deep_but_never_themselves() -> None:
    assert rule(bombs.laughs(MAX_CALLS, 1)) == ""
    assert rule(bombs.laughs(MAX_CALLS + 1, 1)) == "bounded functions"
    assert "calls itself" in sentence(bombs.recursive(1))
    assert "calls itself" in sentence(bombs.recursive(MAX_CALLS))
    assert rule(bombs.recursive(MAX_FUNCTIONS)) == "bounded functions"
    assert rule(bombs.recursive(MAX_FUNCTIONS + 1)) == "bounded size"


def test_the_order_in_which_functions_are_written_does_not_matter() -> None:
    for levels, broken in ((MAX_CALLS, ""), (MAX_CALLS + 1, "bounded functions")):
        whole = onnx.load_from_string(bombs.laughs(levels, 1))
        functions = list(whole.functions)[::-1]
        del whole.functions[:]
        whole.functions.extend(functions)
        assert rule(whole.SerializeToString()) == broken


def test_two_functions_of_one_name_are_refused() -> None:
    body = function("F", [node("Neg", ["a"], ["o"])])
    call = [node("F", X, Y, domain="local")]
    assert rule(model(call, functions=[body, body], imports={"local": 1})) == "bounded functions"


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (bombs.chain, MAX_NODES),
        (lambda count: bombs.chain_in_a_branch(count - 2), MAX_NODES),
        (bombs.nested_choices, MAX_NESTING),
        (bombs.many_inputs, MAX_PORTS),
        (bombs.many_outputs, MAX_PORTS),
        (bombs.many_attributes, MAX_ATTRIBUTES),
        (bombs.many_notes, MAX_METADATA),
    ],
    ids=["chain", "branch", "nesting", "inputs", "outputs", "attributes", "notes"],
)
def test_so_much_and_no_more(make: Callable[[int], bytes], most: int) -> None:
    assert rule(make(most)) == ""
    assert rule(make(most + 1)) == "bounded size"


def test_branches_in_functions_in_branches_add_up() -> None:
    def nested(levels: int) -> bytes:
        deep = onnx.load_from_string(bombs.nested_choices(levels)).graph.node[0]
        deep.output[0] = "o"
        call = branch([node("F", ["x"], ["o"], domain="local")])
        choice = node("If", ["c"], Y, then_branch=call, else_branch=call)
        body = function("F", [deep], inputs=("x", "c"))
        return model(
            [choice],
            inputs=[value("x"), value("c", BOOL, [])],
            functions=[body],
            imports={"local": 1},
        )

    assert rule(nested(MAX_NESTING - 1)) == ""
    assert rule(nested(MAX_NESTING)) == "bounded size"


# ---- shapes ----------------------------------------------------------------------------------


def test_a_tensor_holds_what_it_declares() -> None:
    tensor = malformed.tensor
    assert rule(tensor([4])) == ""
    assert rule(tensor([2, 2])) == ""
    assert rule(tensor([0], b"")) == ""
    assert rule(tensor([0], None)) == ""
    assert rule(tensor([], bytes(4))) == ""
    assert rule(tensor([1] * MAX_AXES, bytes(4))) == ""
    for dims, raw in (
        ([3], bytes(16)), ([5], bytes(16)), ([4], bytes(15)), ([], b""), ([4], None), ([], None),
        ([1] * (MAX_AXES + 1), bytes(4)), ([-1], bytes(4)), ([0, -1], b""), ([0, 2**41], b""),
        ([2**62, 4], b""),
    ):  # fmt: skip
        assert rule(tensor(dims, raw)) == "sound shapes", (dims, raw)
    assert rule(tensor([7], bytes(4), TensorProto.INT4)) == ""
    assert rule(tensor([9], bytes(4), TensorProto.INT4)) == "sound shapes"
    assert rule(tensor([2], bytes(16), TensorProto.COMPLEX64)) == ""


def test_a_tensor_keeps_its_data_in_one_place() -> None:
    for extra, broken in (
        ({"float_data": [1.0]}, "sound shapes"),
        ({"int32_data": [1]}, "sound shapes"),
        ({"segment": TensorProto.Segment(begin=0)}, "an ONNX model"),
    ):
        tensor = TensorProto(name="w", data_type=FLOAT, dims=[1], raw_data=bytes(4), **extra)
        assert rule(model([node("Add", ["x", "w"], Y)], {"w": tensor})) == broken
    for kind, broken in ((FLOAT, ""), (TensorProto.INT32, "sound shapes")):
        tensor = TensorProto(name="w", data_type=kind, dims=[1], float_data=[1.0])
        assert rule(model([node("Add", ["x", "w"], Y)], {"w": tensor})) == broken


def test_numbers_that_are_not_packed_are_counted_alike() -> None:
    for count, broken in ((3, ""), (2, "sound shapes"), (4, "sound shapes")):
        for number, kind, single in (
            (4, FLOAT, b"\x25abcd"), (7, INT64, b"\x38\xff\xff\x01"), (5, BOOL, b"\x28\x01"),
            (10, TensorProto.DOUBLE, b"\x51abcdefgh"),
        ):  # fmt: skip
            written = field(1, 3) + field(2, kind) + field(8, b"w") + single * count
            whole = onnx.load_from_string(one("Identity"))
            graph = whole.graph.SerializeToString() + field(5, written)
            whole.ClearField("graph")
            data = whole.SerializeToString() + field(7, graph)
            assert rule(data) == broken, (number, count)


def test_tensors_are_judged_wherever_they_stand() -> None:
    bad = TensorProto(name="w", data_type=FLOAT, dims=[5], raw_data=bytes(4))
    assert rule(model([node("Constant", [], Y, value=bad)])) == "sound shapes"
    inner = branch([node("Neg", ["w"], ["o"])])
    inner.initializer.append(bad)
    choice = node("If", ["c"], Y, then_branch=inner, else_branch=inner)
    assert rule(model([choice], inputs=[value("c", BOOL, [])])) == "sound shapes"
    leak = function("F", [node("Constant", [], ["o"], value=bad)])
    # Even if nobody calls the function.
    assert rule(model([node("Neg", X, Y)], functions=[leak])) == "sound shapes"


def test_indices_of_sparse_tensors_are_within_their_shape() -> None:
    sparse = malformed.sparse
    assert rule(sparse([4], [0, 3])) == ""
    assert rule(sparse([4], [4])) == "sound shapes"
    assert rule(sparse([4], [-1])) == "sound shapes"
    assert rule(sparse([2, 3], [[0, 0], [1, 2]])) == ""
    assert rule(sparse([2, 3], [[2, 0]])) == "sound shapes"
    assert rule(sparse([2, 3], [5])) == ""
    assert rule(sparse([2, 3], [6])) == "sound shapes"
    assert rule(sparse([2**19, 2**19], [0])) == ""
    assert rule(sparse([2**20, 2**20], [0])) == "sound shapes"


def test_a_constant_shape_fits_into_some_memory() -> None:
    def zeros(*shape: int, kind: int = FLOAT) -> bytes:
        given = helper.make_tensor("v", kind, [1], [0])
        return model(
            [node("ConstantOfShape", ["s"], Y, value=given)], {"s": np.array(shape, np.int64)}
        )

    assert rule(zeros(2**38 - 1)) == ""
    assert rule(zeros(2**38)) == "sound shapes"
    assert rule(zeros(*[2**62] * MAX_AXES)) == "sound shapes"
    assert rule(zeros(2**38, kind=TensorProto.INT8)) == ""
    assert rule(zeros(2**38, 0)) == ""
    assert rule(zeros(-1)) == "sound shapes"


def test_an_axis_of_an_input_may_be_free_but_not_absurd() -> None:
    # Old exporters write -1 for a free axis.
    assert rule(malformed.declared(-1)) == ""
    assert rule(malformed.declared(2**40 - 1)) == ""
    assert rule(malformed.declared(2**40)) == "sound shapes"


def test_what_onnx_wants_positive_is_positive() -> None:
    for op, attribute, least in (
        ("GatherND", "batch_dims", 0), ("Split", "num_outputs", 1), ("Conv", "group", 1),
    ):  # fmt: skip
        assert rule(one(op, **{attribute: least})) == ""
        assert rule(one(op, **{attribute: least - 1})) == "sound attributes"
    for attribute in ("strides", "kernel_shape", "dilations"):
        assert rule(one("MaxPool", **{attribute: [1, 1]})) == ""
        assert rule(one("MaxPool", **{attribute: [1, 0]})) == "sound attributes"


# ---- products of bytes -----------------------------------------------------------------------

U8, S8 = overflowing.BYTES["x"], overflowing.BYTES["w"]


@pytest.mark.parametrize(
    "admitted",
    [
        partial(overflowing.product, U8, S8, constant=True),
        partial(overflowing.product, U8, S8.astype(np.uint8), constant=False),
        partial(overflowing.product, U8.astype(np.int8), S8, constant=False),
        partial(overflowing.qlinear, "QLinearMatMul", constant=True),
        partial(overflowing.qlinear, "QLinearConv", constant=True),
        partial(overflowing.convolution, np.uint8, np.int8),
        partial(overflowing.convolution, np.uint8, np.uint8),
        partial(overflowing.between_dequantised, constant=True),
        partial(overflowing.between_dequantised, constant=True, moved=True),
        partial(overflowing.between_dequantised, zero="zu"),
        partial(overflowing.dynamic, both=True),
        partial(overflowing.dynamic, both=False),
        partial(overflowing.in_a_branch, own=True),
    ],
)
def test_products_of_bytes_are_admitted_where_every_cpu_agrees(
    admitted: Callable[[], bytes],
) -> None:
    assert sentence(admitted()) == ""


def test_a_refused_product_says_what_to_do() -> None:
    told = sentence(overflowing.product(U8, S8, constant=False))
    assert told == (
        'node 0 (MatMulInteger) breaks the rule "reproducible products": it multiplies uint8 by '
        "int8 that is no constant of its own graph, which differs between CPUs (use uint8 for both)"
    )
    contrib = model(
        [node("DynamicQuantizeMatMul", ["x", "w", "s"], Y, domain="com.microsoft")],
        {"s": np.float32(0.1)},
        inputs=[value("x"), value("w", TensorProto.INT8, [8, 4])],
        imports={"com.microsoft": 1},
    )
    assert "by int8 that is no constant" in sentence(contrib, contrib_ops=True)


# ---- the rest --------------------------------------------------------------------------------


def test_settings_and_training_are_refused_and_other_notes_are_not() -> None:
    assert rule(malformed.with_metadata("ort_config", "{}")) == "no settings"
    assert rule(malformed.with_metadata("author", "ort_config")) == ""
    whole = proto([node("Neg", X, Y)])
    assert rule(whole.SerializeToString()) == ""
    whole.training_info.add()
    assert rule(whole.SerializeToString()) == "inference only"


def test_bytes_that_are_not_onnx_are_refused() -> None:
    good = one("Neg")
    assert rule(good) == ""
    assert rule(good[:4] + b"ORTM" + good[8:]) == "an ONNX model"
    for end in range(len(good)):
        broken = rule(good[:end])
        # A message may end between two fields: then the last of them is missing.
        assert broken == "an ONNX model" or end in (2, len(good) - 4, len(good) - 6), end


def test_it_is_told_which_inputs_declare_no_rank() -> None:
    data = model(
        [node("Sum", ["a", "b", "c", "w"], Y)],
        {"w": np.ones(1, np.float32)},
        inputs=[
            value("a", FLOAT, None), value("b", FLOAT, []), value("c", FLOAT, ["n"]),
            value("w", FLOAT, None),
        ],
    )  # fmt: skip
    assert admit(data, contrib_ops=False) == Admitted(frozenset({"a"}))
    assert admit(memoryview(data), contrib_ops=False) == Admitted(frozenset({"a"}))
    overridable = admission_models.overridable()
    assert admit(overridable, contrib_ops=False) == Admitted(frozenset())
