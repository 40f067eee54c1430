"""A graph as JSON, without weights and without pickle: nodes, arguments, inputs, what tensors it reads."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphopt.assembly import Attribute, assemble, named_attributes
from graphopt.errors import ExportError, PlanError
from graphopt.exporters.graph_arguments import decoded, encoded, torch_name
from graphopt.exporters.graph_inputs import InputReader, InputWriter
from graphopt.exporters.graph_targets import find_target, target_text
from graphopt.opaque import whole_names
from graphopt.wiring import submodule_of

GRAPH_VERSION = 1

_DAMAGED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError)
_PATH = re.compile(r"[^\s\"'\\]+")


def graph_to_dict(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Describe a graph as values that JSON knows; the same graph gives the same text.

    The description holds every node, what every input was on the example (type, sizes with the symbol of the batch,
    order in memory), and name, type, shape and kind of every tensor that a node reads, tied names told. It holds
    neither values of tensors nor how the user nests inputs and outputs: what is built from it takes the leaves by
    place and returns a tuple of leaves.

    Args:
        graph_module: A graph of operators of `torch.ops` and arithmetic of numbers; bodies of higher-order operators
            are graphs inside.

    Raises:
        ExportError: It calls something else, or an argument is of a kind that has no text.
    """
    return {"version": GRAPH_VERSION, **_described(graph_module, flat=True)}


def graph_from_dict(data: Any, tensors: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    """Build the graph that `graph_to_dict` described.

    Args:
        data: The description.
        tensors: The tensors that it reads, by name; of tied names one is enough. A Parameter is taken as it is, so
            that graphs that share it go on sharing it; tensors of the same identity stay one.

    Returns:
        A module in evaluation form. It is called with its inputs by place and returns a tuple. Inputs carry their
        ``meta["val"]``; `graphopt.values.refresh_values` gives the other nodes theirs.

    Raises:
        PlanError: The description is damaged or of another version, an operator is not known in this process, or a
            tensor is absent, or of another type or shape.
    """
    try:
        if data["version"] != GRAPH_VERSION:
            raise PlanError(
                f"the graph is of version {data['version']}, wanted {GRAPH_VERSION}; use the graphopt that saved it"
            )
        return _Builder({}).build(data, tensors)
    except _DAMAGED as error:
        raise PlanError(f"the graph is damaged: {type(error).__name__} ({error}); save the result again") from error


def tensor_specs(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return ``dtype``, ``shape`` and kind of every tensor that a described graph reads, bodies included.

    Args:
        data: What `graph_to_dict` gave.

    Returns:
        By name, of tied names the first alone.
    """
    found = {name: spec for name, spec in data["tensors"].items() if "tied_to" not in spec}
    for place, body in data["bodies"].items():
        found |= {f"{place}.{name}": spec for name, spec in tensor_specs(body).items()}
    return found


def _described(graph_module: fx.GraphModule, *, flat: bool) -> dict[str, Any]:
    writer = InputWriter()
    nodes = [_node(node, writer, flat=flat) for node in graph_module.graph.nodes]
    return {
        "class": re.sub(r"\W", "_", type(graph_module).__name__),
        "symbols": writer.examples,
        "tensors": _tensors(graph_module),
        "bodies": _bodies(graph_module),
        "nodes": nodes,
    }


def _node(node: fx.Node, writer: InputWriter, *, flat: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": node.name, "op": node.op}
    if node.op == "placeholder":
        return entry | {"target": str(node.target), "value": writer.value(node)}
    if node.op == "get_attr":
        return entry | {"target": str(node.target)}
    if node.op == "output":
        returned = tuple(pytree.tree_leaves(node.args[0])) if flat else node.args[0]
        return entry | {"args": encoded((returned,), "the output")}
    if node.op != "call_function":
        raise ExportError(
            f"the node {node.name} is a {node.op} ({node.target}); graphopt.capture gives graphs of operators alone: "
            "capture the model again"
        )
    for name in whole_names([node]):
        raise ExportError(
            f"{name} is kept whole: the graph runs the user's own code there, which no file holds; save the result "
            "with result.save(folder), and load it into the user's model"
        )
    return entry | {
        "target": target_text(node.target),
        "args": encoded(tuple(node.args), node.name),
        "kwargs": {key: encoded(value, node.name) for key, value in node.kwargs.items()},
    }


def _tensors(graph_module: fx.GraphModule) -> dict[str, Any]:
    held = named_attributes(graph_module)
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    strangers = sorted(read - set(held))
    if strangers:
        raise ExportError(
            f"the graph reads {strangers[0]!r}, which is no tensor of the module; capture the model again"
        )
    owners: dict[int, str] = {}
    found: dict[str, Any] = {}
    for name, attribute in held.items():
        if name in read and isinstance(attribute.value, torch.Tensor):
            owner = owners.setdefault(id(attribute.value), name)
            found[name] = {"tied_to": owner} if owner != name else _spec(attribute, attribute.value)
    return found


def _spec(attribute: Attribute, tensor: torch.Tensor) -> dict[str, Any]:
    spec: dict[str, Any] = {"dtype": torch_name(tensor.dtype), "shape": [int(size) for size in tensor.shape]}
    if isinstance(tensor, nn.Parameter):
        return spec | {"kind": "parameter", "requires_grad": tensor.requires_grad}
    return spec | {"kind": "buffer", "persistent": attribute.persistent}


def _bodies(graph_module: fx.GraphModule) -> dict[str, Any]:
    bodies = ((str(node.target), submodule_of(graph_module, node)) for node in graph_module.graph.nodes)
    return {name: _described(body, flat=False) for name, body in bodies if body is not None}


@dataclass(frozen=True)
class _Builder:
    """Builds graphs and their bodies over one set of Parameters.

    Attributes:
        parameters: Those made so far, by `id` of the tensor that they are over.
    """

    parameters: dict[int, nn.Parameter]

    def build(self, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> fx.GraphModule:
        attributes = dict(self._attributes(data["tensors"], tensors))
        for name, body in data["bodies"].items():
            inner = {key.removeprefix(f"{name}."): one for key, one in tensors.items() if key.startswith(f"{name}.")}
            attributes[_path(name)] = Attribute(self.build(body, inner))
        graph = _graph(data["nodes"], InputReader(data["symbols"]), set(attributes))
        return assemble(graph, attributes, _identifier(data["class"]))

    def _attributes(
        self, specs: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[str, Attribute]]:
        for name, spec in specs.items():
            owner = str(spec.get("tied_to", name))
            found = _checked(owner, specs[owner], tensors)
            if specs[owner]["kind"] == "parameter":
                yield _path(name), Attribute(self._parameter(found, bool(specs[owner]["requires_grad"])))
            else:
                plain = found.detach() if isinstance(found, nn.Parameter) else found
                yield _path(name), Attribute(plain, persistent=bool(specs[owner]["persistent"]))

    def _parameter(self, tensor: torch.Tensor, requires_grad: bool) -> nn.Parameter:
        if isinstance(tensor, nn.Parameter):
            return tensor
        if id(tensor) not in self.parameters:
            self.parameters[id(tensor)] = nn.Parameter(tensor, requires_grad=requires_grad)
        return self.parameters[id(tensor)]


def _checked(name: str, spec: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if name not in tensors:
        raise PlanError(f"the graph reads {name!r}, which is not among the tensors given; save the result again")
    found = tensors[name]
    shape, wanted = list(found.shape), list(spec["shape"])
    if torch_name(found.dtype) != spec["dtype"] or shape != wanted:
        raise PlanError(
            f"{name!r} is {torch_name(found.dtype)} {shape} and the graph wants {spec['dtype']} {wanted}; "
            "the files are of different results: save the result again"
        )
    return found


def _graph(entries: list[Mapping[str, Any]], reader: InputReader, attributes: set[str]) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for entry in entries:
        name = _identifier(entry["name"])
        node = nodes[name] = _create(graph, entry, nodes, attributes)
        if node.name != name:
            raise ValueError(f"the name {name} cannot be used twice")
        if node.op == "placeholder":
            node.meta["val"] = reader.value(entry["value"])
    if not entries or entries[-1]["op"] != "output":
        raise ValueError("the graph has no output at its end")
    graph.lint()
    return graph


def _create(graph: fx.Graph, entry: Mapping[str, Any], nodes: Mapping[str, fx.Node], attributes: set[str]) -> fx.Node:
    op, name = entry["op"], entry["name"]
    if op == "placeholder":
        return graph.create_node(op, _identifier(entry["target"]), name=name)
    if op == "get_attr":
        if entry["target"] not in attributes:
            raise ValueError(f"{name} reads {entry['target']!r}, which the graph does not list")
        return graph.create_node(op, entry["target"], name=name)
    args = decoded(entry["args"], nodes)
    if op == "output":
        return graph.create_node(op, "output", args, name=name)
    if op != "call_function":
        raise ValueError(f"{name} is a {op!r}")
    kwargs = {_identifier(key): decoded(value, nodes) for key, value in entry["kwargs"].items()}
    return graph.create_node(op, find_target(entry["target"]), args, kwargs, name=name)


def _identifier(name: str) -> str:
    """Return a name that goes into code; the code of a graph is run, so nothing else may pass."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name")
    return name


def _path(name: str) -> str:
    """Return the dotted name of a tensor, which goes into code in quotes."""
    if not _PATH.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a tensor")
    return name
