import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from exporters.results import small_program
from torch import Tensor, fx, nn

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.program_file import graph_from_dict, graph_to_dict

aten = torch.ops.aten


def described() -> dict[str, Any]:
    return json.loads(json.dumps(graph_to_dict(small_program().graph_module)))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return described()


@pytest.fixture(scope="module")
def held() -> dict[str, Tensor]:
    return small_program().parameters


def call_of(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in data["nodes"] if entry["op"] == "call_function")
    return found


def set_in(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: call_of(data).update({place: value})


FAULTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda data: data.pop("version"), "damaged"),
    (lambda data: data.update(version=99), "version 99, wanted 1"),
    (lambda data: data.pop("nodes"), "damaged"),
    (lambda data: data["nodes"].pop(), "no output at its end"),
    (lambda data: data["nodes"].reverse(), "damaged"),
    (lambda data: data["nodes"].append(data["nodes"][0]), "damaged"),
    (lambda data: data["nodes"].insert(0, data["nodes"][0]), "damaged"),
    (lambda data: data["nodes"].pop(0), "damaged"),
    (lambda data: data["tensors"].pop("first.weight"), "does not list"),
    (lambda data: data["tensors"]["first.weight"].update(shape=[16, 9]), r"is float32 \[16, 8\] and the graph wants"),
    (lambda data: data["tensors"]["first.weight"].update(dtype="float64"), r"the graph wants float64 \[16, 8\]"),
    (lambda data: data["tensors"].update(other=data["tensors"]["shift"]), "reads 'other', which is not among"),
    (lambda data: data["nodes"][0]["value"].update(dtype="Tensor"), "damaged"),
    (lambda data: data["nodes"][0]["value"].update(order=[0, 0]), "damaged"),
    (lambda data: data["nodes"][0]["value"].update(shape=[{"s9": 1}, 8]), "damaged"),
    (lambda data: data["nodes"][0].update(target="x=__import__('os').getcwd()"), "is no name"),
    (lambda data: data.update({"class": "A: pass\nimport os\nclass B"}), "is no name"),
    (set_in("op", "call_method"), "damaged"),
    (set_in("op", "call_module"), "damaged"),
    (set_in("name", "x y"), "is no name"),
    (set_in("name", "lambda"), "is no name"),
    (set_in("kwargs", {"a, *b": 1}), "is no name"),
    (set_in("args", {"tuple": [{"node": "nowhere"}]}), "damaged"),
    (set_in("args", {"pickle": ""}), "damaged"),
    (set_in("args", {"dtype": "nn"}), "damaged"),
    (set_in("target", "builtins.eval"), "found no operator 'builtins.eval'"),
    (set_in("target", "os.system"), "found no operator 'os.system'.*import the library that defines.* 'os'"),
    (set_in("target", "_operator.attrgetter"), "found no operator"),
    (set_in("target", "_operator.call"), "found no operator"),
    (set_in("target", "math.__class__"), "found no operator"),
    (set_in("target", "torch.load"), "found no operator"),
    (set_in("target", "load_library"), "found no operator"),
    (set_in("target", "load_library.__func__"), "found no operator"),
    (set_in("target", "aten.linear.nowhere"), "found no operator 'aten.linear.nowhere'.*does not have it"),
    (set_in("target", "aten.linear.default.__call__"), "found no operator"),
    (set_in("target", "acme.attention.default"), "import the library that defines the operators of 'acme'"),
    (set_in("target", "graphopt.nowhere.default"), "found no kernel graphopt.nowhere"),
    (set_in("target", ""), "found no operator ''"),
    (set_in("target", None), "damaged"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_a_damaged_graph_is_refused(
    data: dict[str, Any], held: dict[str, Tensor], damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    broken = copy.deepcopy(data)
    damage(broken)
    with pytest.raises(PlanError, match=message):
        graph_from_dict(broken, held)
    graph_from_dict(data, held)


@pytest.mark.parametrize("content", [None, [], "x", {"version": 1}, {"version": 1, "nodes": []}])
def test_what_is_no_graph_is_refused(content: Any) -> None:
    with pytest.raises(PlanError, match="the graph is damaged"):
        graph_from_dict(content, {})


def test_a_name_of_a_tensor_cannot_carry_code() -> None:
    data = described()
    name = 'shift"); print("'
    data["tensors"][name] = data["tensors"].pop("shift")
    for entry in data["nodes"]:
        if entry.get("target") == "shift":
            entry["target"] = name
    with pytest.raises(PlanError, match="is no name of a tensor"):
        graph_from_dict(data, {**small_program().parameters, name: torch.ones(8)})


def test_missing_tensors_are_named() -> None:
    data, tensors = described(), small_program().parameters
    tensors.pop("shift")
    with pytest.raises(PlanError, match="the graph reads 'shift', which is not among the tensors given"):
        graph_from_dict(data, tensors)


def refused_graph(target: Any, *args: Any) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.call_function(target, args))
    return fx.GraphModule(nn.Module(), graph)


def test_what_has_no_text_is_refused() -> None:
    with pytest.raises(ExportError, match=r"neither an operator of torch\.ops nor arithmetic"):
        graph_to_dict(refused_graph(torch.relu, 1))
    with pytest.raises(ExportError, match=r"an argument of relu_default is a builtins\.range"):
        graph_to_dict(refused_graph(aten.relu.default, range(3)))
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_method("relu", (x,)))
    with pytest.raises(ExportError, match="the node relu is a call_method"):
        graph_to_dict(fx.GraphModule(nn.Module(), graph))
