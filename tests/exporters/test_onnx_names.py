from collections import OrderedDict, namedtuple
from typing import Any

import onnx_ir
import pytest
import torch
from torch.utils import _pytree as pytree

from graphopt.exporters.onnx_names import name_axes, name_inputs, name_outputs, name_transposed, output_names

Pair = namedtuple("Pair", "left right")  # noqa: PYI024 - the kind that models return
T = torch.zeros(1)


class Record(OrderedDict[str, Any]):
    """A mapping of the kind that model libraries register without key paths."""


pytree.register_pytree_node(
    Record,
    lambda record: (list(record.values()), list(record)),
    lambda values, keys: Record(zip(keys, values, strict=True)),
)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (T, ["output"]),
        ((T,), ["output_0"]),
        ([T, (T, T)], ["output_0", "output_1_0", "output_1_1"]),
        ({"logits": T, "hidden": (T, T)}, ["logits", "hidden_0", "hidden_1"]),
        (Pair(T, {"a b/c": T}), ["left", "right_a_b_c"]),
        (Record(sample=T, aux=[T]), ["sample", "aux_0"]),
        ({"x": None, "n": 3, "y": T}, ["x", "n", "y"]),
        ({0: T, "_private": T}, ["output_0", "output__private"]),
    ],
)
def test_outputs_are_called_after_the_keys_that_lead_there(result: Any, names: list[str]) -> None:
    assert output_names(result) == names


def read(text: str) -> onnx_ir.Model:
    return onnx_ir.from_onnx_text('<ir_version: 10, opset_import: ["" : 20]>' + text)


def written(model: onnx_ir.Model) -> dict[str, list[str]]:
    graph = model.graph
    return {
        "inputs": [str(value.name) for value in graph.inputs],
        "outputs": [str(value.name) for value in graph.outputs],
        "weights": list(graph.initializers),
        "nodes": [f"{node.outputs[0].name}={node.op_type}({node.inputs[0].name})" for node in graph],
    }


def test_inputs_and_outputs_take_names_that_others_bear() -> None:
    model = read("g (float[2] a, float[2] b) => (float[2] c, float[2] d) { x = Neg(a) c = Abs(x) d = Abs(b) }")
    name_inputs(model, ["x", "a"])
    assert name_outputs(model, ["d", "x"]) == ["d", "out_x"]
    assert written(model) == {
        "inputs": ["x", "a"],
        "outputs": ["d", "out_x"],
        "weights": [],
        "nodes": ["x_value=Neg(x)", "d=Abs(x_value)", "out_x=Abs(a)"],
    }


def test_weights_keep_their_names() -> None:
    model = read("g (float[2] a) => (float[2] c) <float[2] weight = {1.0, 2.0}> { c = Add(a, weight) }")
    assert name_outputs(model, ["weight"]) == ["out_weight"]
    assert written(model)["weights"] == ["weight"]


def test_equal_names_are_told_apart() -> None:
    model = read("g (float[2] a) => (float[2] c, float[2] d) { c = Neg(a) d = Abs(a) }")
    assert name_outputs(model, ["y", "y"]) == ["y", "out_y"]


def test_an_output_that_is_an_input_or_a_weight_is_copied() -> None:
    model = read("g (float[2] a) => (float[2] a, float[2] w) <float[2] w = {1.0, 2.0}> { b = Neg(a) }")
    assert name_outputs(model, ["same", "weight"]) == ["same", "weight"]
    assert written(model) == {
        "inputs": ["a"],
        "outputs": ["same", "weight"],
        "weights": ["w"],
        "nodes": ["b=Neg(a)", "same=Identity(a)", "weight=Identity(w)"],
    }


def test_transposed_weights_keep_a_trace_of_their_name() -> None:
    model = read(
        "g (float[2,2] a) => (float[2,2] d) <float[2,2] w = {1.0, 2.0, 3.0, 4.0}>"
        "{ b = Transpose(w) c = Transpose(w) e = Transpose(a) d = Sum(b, c, e) }"
    )
    name_transposed(model)
    assert written(model)["nodes"][:3] == ["w.transposed=Transpose(w)", "c=Transpose(w)", "e=Transpose(a)"]


def test_axes_are_renamed_in_expressions_too() -> None:
    model = read("g (float[s1, 3] a) => (float[s1, 3] d) { d = Neg(a) }")
    model.graph.inputs[0].shape = onnx_ir.Shape(["s1", 3, "2*s1 + s11", None])
    name_axes(model, {"s1": "batch"})
    assert str(model.graph.inputs[0].shape) == "[batch,3,2*batch + s11,None]"
    assert str(model.graph.outputs[0].shape) == "[batch,3]"
    name_axes(model, {})
    assert str(model.graph.outputs[0].shape) == "[batch,3]"
