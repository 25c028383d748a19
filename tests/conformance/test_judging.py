"""The comparison tells right from wrong: invented runs, and what they come to."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conformance.cases import Case, all_cases, bundle_of
from tests.conformance.comparison import MISTAKES, Sandboxed, judge
from tests.conformance.expected import rule_of, surprises
from tests.conformance.plain import Plain, run_all

CASE = Case("test_it", b"", {}, ("Abs",), True)
MINUS_ZERO = bundle_of({"y": np.array([-0.0], np.float32)})
ZERO = bundle_of({"y": np.array([0.0], np.float32)})
REFUSAL = 'the child says: "node 0 (Abs) breaks the rule "positive thinking": it is not"'
DIED = Sandboxed(b"", "crash", "the child was ended by SIGSEGV")
REFUSED = Sandboxed(b"", "model", REFUSAL)
assert MINUS_ZERO is not None
assert ZERO is not None


@pytest.mark.parametrize(
    ("travels", "plain", "boxed", "category"),
    [
        (True, Plain(True, ZERO, ""), Sandboxed(ZERO, "", ""), "identical"),
        (True, Plain(True, MINUS_ZERO, ""), Sandboxed(ZERO, "", ""), "different"),
        (True, Plain(True, ZERO, ""), DIED, "child killed"),
        (True, Plain(True, ZERO, ""), REFUSED, "refused by a rule"),
        (True, Plain(True, ZERO, ""), Sandboxed(b"", "model", "a fault"), "only one runs it"),
        (True, Plain(False, None, "a fault"), Sandboxed(ZERO, "", ""), "only one runs it"),
        (True, Plain(False, None, "a fault"), DIED, "plain fails too"),
        (True, Plain(False, None, "a fault"), REFUSED, "plain fails too"),
        (False, Plain(True, None, ""), REFUSED, "cannot travel"),
        (False, Plain(True, None, ""), DIED, "child killed"),
        (False, Plain(True, None, ""), Sandboxed(ZERO, "", ""), "only one runs it"),
    ],
)
def test_two_runs_of_a_case_come_to_a_category(
    travels: bool, plain: Plain, boxed: Sandboxed, category: str
) -> None:
    assert judge(CASE._replace(travels=travels), plain, boxed).category == category


def test_what_must_never_happen_is_a_mistake() -> None:
    assert set(MISTAKES) == {"different", "only one runs it", "child killed"}


def test_a_refusal_that_the_list_does_not_foresee_is_told() -> None:
    assert rule_of(REFUSAL) == "positive thinking"
    assert rule_of("onnxruntime says no") == ""
    dropout = CASE._replace(op_types=("Add", "Dropout"))
    text = CASE._replace(travels=False)

    assert len(surprises([(CASE, "positive thinking")])) == 1
    assert surprises([(dropout, "deterministic operators"), (text, "tensors in and out")]) == []
    assert len(surprises([(dropout, "one file"), (text, "deterministic operators")])) == 2


def test_a_model_that_brings_plain_onnxruntime_down_does_not_stop_the_others() -> None:
    graph = helper.make_graph(
        [helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=-7)],
        "crash",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2]),
            helper.make_tensor_value_info("i", TensorProto.INT64, [2, 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    crashing = CASE._replace(model=model.SerializeToString())
    sane = next(case for case in all_cases() if case.name == "test_abs")

    results = run_all([crashing, sane, crashing, sane], workers=1)

    assert [result.ran for result in results] == [False, True, False, True]
    assert "the process ended with -" in results[0].reason
