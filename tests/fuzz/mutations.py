"""Small, seeded damage to sane models and their inputs.

A mutation changes a draft in place and tells whether it found anything to change. It only draws
from the generator it is given, so that a seed names a model for good (for one onnx version).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from tests.conformance.cases import all_cases
from tests.fuzz.drafts import (
    Draft,
    Random,
    attributes_of_operators,
    change_list,
    extreme_bytes,
    is_plain,
    nodes_by_arity,
    pick_attribute,
    pick_node,
    tensors_of,
)

INTEGERS = (
    0, 1, 2, 3, 7, 16, 255, 65536, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1,
    -1, -2, -3, -7, -(2**31), -(2**31) - 1, -(2**62), -(2**63),
)  # fmt: skip
FLOATS = (0.0, -0.0, 1e-40, -1.0, 1e9, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"))
TYPES = (*range(24), 1, 1, 2, 3, 6, 6, 7, 7, 9, 10, 10, 11, 11)
_CASTS = {
    number: helper.tensor_dtype_to_np_dtype(number) for number in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11)
}
TEXTS = (b"", b"\x00", b"\xff\xfe", b"SAME_UPPER", b"NOTSET", b"linear", b"ij,jk->ik", b"a" * 5000)


# ---- (generator, draft) -> whether anything was changed --------------------------------------


def attribute_to_extreme(rng: Random, draft: Draft) -> bool:
    found = pick_attribute(rng, draft)
    if found is None:
        return False
    return _to_extreme(rng, found[1])


def _to_extreme(rng: Random, one: AttributeProto) -> bool:
    match one.type:
        case AttributeProto.INT:
            one.i = rng.choice(INTEGERS)
        case AttributeProto.FLOAT:
            one.f = rng.choice(FLOATS)
        case AttributeProto.STRING:
            one.s = rng.choice(TEXTS)
        case AttributeProto.INTS:
            values = list(one.ints)
            change_list(rng, values, INTEGERS)
            one.ints[:] = values
        case AttributeProto.FLOATS:
            floats = list(one.floats)
            change_list(rng, floats, FLOATS)
            one.floats[:] = floats
        case AttributeProto.STRINGS:
            texts = list(one.strings)
            change_list(rng, texts, TEXTS)
            one.strings[:] = texts
        case _:
            return False
    return True


def attribute_dropped(rng: Random, draft: Draft) -> bool:
    found = pick_attribute(rng, draft)
    if found is None:
        return False
    node, one = found
    node.attribute.remove(one)
    return True


def attribute_added(rng: Random, draft: Draft) -> bool:
    """One that the operator knows (another test of it sets it), with a value of its own."""
    found = pick_node(rng, draft)
    if found is None:
        return False
    node = found[1]
    known = attributes_of_operators().get(str(node.op_type), {})
    missing = [name for name in known if all(one.name != name for one in node.attribute)]
    if not missing:
        return False
    attribute = AttributeProto()
    name = rng.choice(missing)
    attribute.ParseFromString(known[name])
    node.attribute.append(attribute)
    if rng.random() < 0.6:
        _to_extreme(rng, node.attribute[-1])
    return True


def attribute_of_another_type(rng: Random, draft: Draft) -> bool:
    found = pick_attribute(rng, draft)
    if found is None:
        return False
    found[1].type = rng.randrange(15)
    return True


def operator_swapped(rng: Random, draft: Draft) -> bool:
    found = pick_node(rng, draft)
    if found is None:
        return False
    node = found[1]
    # Another number of inputs or outputs is mostly refused at sight.
    alike = nodes_by_arity().get((len(node.input), len(node.output)), ())
    if not alike:
        return False
    other = NodeProto()
    other.ParseFromString(rng.choice(alike))
    node.op_type, node.domain = other.op_type, other.domain
    if rng.random() < 0.7:
        del node.attribute[:]
        node.attribute.extend(other.attribute)
    return True


def inputs_of_a_node(rng: Random, draft: Draft) -> bool:
    found = pick_node(rng, draft)
    if found is None or not found[1].input:
        return False
    graph, node = found
    names = list(node.input)
    others = [*(v.name for v in graph.input), *(o for n in graph.node for o in n.output)]
    at = rng.randrange(len(names))
    match rng.randrange(5):
        case 0:
            names[at] = ""
        case 1:
            del names[at]
        case 2:
            names.insert(at, names[at])
        case 3 if others:
            names[at] = rng.choice(others)
        case _:
            rng.shuffle(names)
    node.input[:] = names
    return True


def outputs_of_a_node(rng: Random, draft: Draft) -> bool:
    found = pick_node(rng, draft)
    if found is None or not found[1].output:
        return False
    node = found[1]
    if rng.random() < 0.5:
        node.output.append(f"extra{rng.randrange(100)}")
    else:
        node.output[rng.randrange(len(node.output))] = rng.choice(("", node.output[0], "x"))
    return True


def declared_shape(rng: Random, draft: Draft) -> bool:
    graph = draft.model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    if not values:
        return False
    shape = rng.choice(values).type.tensor_type.shape
    match rng.randrange(4):
        case 0 if shape.dim:
            shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice(INTEGERS)
        case 1 if shape.dim:
            del shape.dim[rng.randrange(len(shape.dim))]
        case 2:
            shape.dim.add().dim_param = "free"
        case _:
            for dim in shape.dim:
                dim.dim_param = f"n{rng.randrange(3)}"
    return True


def declared_type(rng: Random, draft: Draft) -> bool:
    """Of one value, or of all that had its type, and then of what is fed as well."""
    graph = draft.model.graph
    values = [*graph.input, *graph.output]
    if not values:
        return False
    old = rng.choice(values).type.tensor_type.elem_type
    new = rng.choice(TYPES)
    alike = [value for value in values if value.type.tensor_type.elem_type == old]
    for value in alike if rng.random() < 0.8 else [rng.choice(alike)]:
        value.type.tensor_type.elem_type = new
        if is_plain(draft.feeds.get(value.name)) and new in _CASTS:
            with np.errstate(all="ignore"):
                draft.feeds[value.name] = draft.feeds[value.name].astype(_CASTS[new])
    return True


def input_made_constant(rng: Random, draft: Draft) -> bool:
    """So that onnxruntime computes with it while it loads."""
    graph = draft.model.graph
    arrays = {name: v for name, v in draft.feeds.items() if is_plain(v)}
    values = [value for value in graph.input if value.name in arrays]
    if not values:
        return False
    value = rng.choice(values)
    graph.initializer.append(numpy_helper.from_array(arrays[value.name], value.name))
    graph.input.remove(value)
    return True


def tensor_in_the_model(rng: Random, draft: Draft) -> bool:
    tensors = tensors_of(draft)
    if not tensors:
        return False
    tensor = rng.choice(tensors)
    match rng.randrange(5):
        case 0:
            dims = list(tensor.dims)
            change_list(rng, dims, INTEGERS)
            tensor.dims[:] = dims
        case 1:
            tensor.data_type = rng.choice(TYPES)
        case 2:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 3:
            tensor.raw_data = extreme_bytes(rng, tensor.raw_data)
        case _:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("etc/passwd", "../x", "")))
    return True


def input_data(rng: Random, draft: Draft) -> bool:
    names = [name for name, value in draft.feeds.items() if is_plain(value)]
    if not names:
        return False
    name = rng.choice(names)
    array = np.array(draft.feeds[name])
    if array.size and rng.random() < 0.8:
        flat = array.reshape(-1)
        for _ in range(rng.choice((1, 1, 3))):
            value = rng.choice(INTEGERS if array.dtype.kind in "iub" else FLOATS)
            with np.errstate(all="ignore"):
                if array.dtype.kind in "iu":
                    value = int(value) % 2 ** (8 * array.itemsize)
                    value = np.array([value], f"u{array.itemsize}").view(array.dtype)[0]
                flat[rng.randrange(flat.size)] = value
        if rng.random() < 0.2:
            flat[:] = flat[0]
    elif array.ndim:
        axis = rng.randrange(array.ndim)
        array = np.delete(array, slice(rng.choice((0, 1)), None), axis)
    draft.feeds[name] = array
    return True


def input_shape(rng: Random, draft: Draft) -> bool:
    """Another shape than before, and the declaration made free for it."""
    graph = draft.model.graph
    values = [value for value in graph.input if is_plain(draft.feeds.get(value.name))]
    if not values:
        return False
    value = rng.choice(values)
    shape = list(draft.feeds[value.name].shape)
    change_list(rng, shape, (0, 0, 1, 1, 2, 3, 5, 17))
    while int(np.prod(shape, dtype=np.float64)) > 2**16:
        shape.pop()
    shape = shape[:8]
    draft.feeds[value.name] = np.resize(draft.feeds[value.name], shape)
    value.type.tensor_type.ClearField("shape")
    for i in range(len(shape)):
        value.type.tensor_type.shape.dim.add().dim_param = f"d{i}_{value.name}"
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return True


def node_repeated(rng: Random, draft: Draft) -> bool:
    """A chain in which each copy takes the output of the one before."""
    graph = draft.model.graph
    nodes = [node for node in graph.node if node.input and node.output]
    if not nodes:
        return False
    node = NodeProto()
    node.CopyFrom(rng.choice(nodes))
    before = node.output[0]
    for i in range(min(rng.choice((1, 5, 50, 1000)), 2**17 // node.ByteSize() + 1)):
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"copy{i}"
        copy.input[rng.randrange(len(copy.input))] = before
        copy.output[:] = [f"copy{i}_{at}" for at in range(len(copy.output))]
        before = copy.output[0]
    if graph.output and rng.random() < 0.7:
        graph.output[0].name = before
    return True


def graph_nested(rng: Random, draft: Draft) -> bool:
    """The whole graph in the branches of an If in an If ..."""
    graph = draft.model.graph
    if not graph.output:
        return False
    for level in range(rng.choice((1, 2, 8, 60))):
        body = GraphProto()
        body.name = f"body{level}"
        body.node.extend(graph.node)
        body.output.extend(graph.output)
        names = [value.name for value in graph.output]
        node = helper.make_node("If", ["always"], names, then_branch=body, else_branch=body)
        if body.ByteSize() > 2**16:
            break
        del graph.node[:]
        graph.node.append(node)
    graph.initializer.append(numpy_helper.from_array(np.bool_(rng.random() < 0.5), "always"))
    return True


def made_a_loop(rng: Random, draft: Draft) -> bool:
    """The whole graph in the body of a Loop."""
    graph = draft.model.graph
    if not graph.output:
        return False
    outputs = list(graph.output)
    body = GraphProto(name="body")
    body.node.append(helper.make_node("Identity", ["go_in"], ["go_out"]))
    body.node.extend(graph.node)
    body.input.append(helper.make_tensor_value_info("round", TensorProto.INT64, []))
    body.input.append(helper.make_tensor_value_info("go_in", TensorProto.BOOL, []))
    body.output.append(helper.make_tensor_value_info("go_out", TensorProto.BOOL, []))
    body.output.extend(outputs)
    node = helper.make_node("Loop", ["rounds", "go"], [one.name for one in outputs], body=body)
    del graph.node[:]
    graph.node.append(node)
    rounds = np.int64(rng.choice((0, 1, 1, 10, 10, 1000, 100_000, 2**62, -1)))
    graph.initializer.append(numpy_helper.from_array(rounds, "rounds"))
    graph.initializer.append(numpy_helper.from_array(np.bool_(True), "go"))
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return True


def spliced(rng: Random, draft: Draft) -> bool:
    """Another model's graph behind this one's first output."""
    graph = draft.model.graph
    other = onnx.load_from_string(rng.choice(all_cases()).model).graph
    if not (graph.output and other.input and other.output):
        return False
    first, joint = other.input[0].name, graph.output[0].name
    for node in other.node:
        node.input[:] = [
            joint if name == first else f"o_{name}" * bool(name) for name in node.input
        ]
        node.output[:] = [f"o_{name}" * bool(name) for name in node.output]
    graph.node.extend(other.node)
    for value in list(other.input)[1:]:
        value.name = f"o_{value.name}"
        graph.input.append(value)
    for tensor in other.initializer:
        tensor.name = f"o_{tensor.name}"
        graph.initializer.append(tensor)
    for value in other.output:
        value.name = f"o_{value.name}"
        value.type.tensor_type.ClearField("shape")
        graph.output.append(value)
    return True


def versions(rng: Random, draft: Draft) -> bool:
    if rng.random() < 0.5 or not draft.model.opset_import:
        draft.model.ir_version = rng.choice((0, 1, 3, 7, 10, 99, -1))
    else:
        draft.model.opset_import[0].version = rng.choice((*range(1, 26), 0, -1, 2**40))
    return True


MUTATIONS: tuple[Callable[[Random, Draft], bool], ...] = (
    attribute_to_extreme, attribute_to_extreme, attribute_to_extreme, attribute_dropped,
    attribute_added, attribute_of_another_type, operator_swapped, operator_swapped,
    inputs_of_a_node, outputs_of_a_node, declared_shape, declared_type, input_made_constant,
    input_made_constant, tensor_in_the_model, input_data, input_data, input_data, input_shape,
    input_shape, node_repeated, graph_nested, made_a_loop, spliced, versions,
)  # fmt: skip
