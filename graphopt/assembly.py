"""Build a plain GraphModule from a graph and named tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn


@dataclass(frozen=True)
class Attribute:
    """A tensor or submodule that a graph module holds under a dotted name.

    Attributes:
        value: A Parameter, a tensor (registered as a buffer) or a module.
        persistent: Whether a buffer belongs to the state dict.
    """

    value: torch.Tensor | nn.Module
    persistent: bool = True


class _WrittenWhenAsked:
    """Stands for `forward` until somebody asks for it; then the code is written and takes its place."""

    def __get__(self, module: fx.GraphModule | None, owner: type) -> Any:
        if module is None:
            return self
        module.recompile()
        return module.forward


class LateGraphModule(fx.GraphModule):
    """A graph module whose code is written when it is first called or looked at, not at every change of its graph."""

    forward: Any = _WrittenWhenAsked()

    @property
    def graph(self) -> fx.Graph:
        """The graph; setting it makes the code out of date."""
        return self._graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        """Take another graph."""
        self._graph = graph
        graph.owning_module = self
        self.drop_code()

    @property
    def code(self) -> str:
        """The Python code of the graph."""
        self.write_code()
        return super().code

    def drop_code(self) -> None:
        """Have the code written anew before it is used again: the graph changed."""
        if "forward" in vars(type(self)):
            del type(self).forward

    def write_code(self) -> None:
        """Write the code where that has not been done since the graph changed."""
        if "forward" not in vars(type(self)):
            self.recompile()

    def __str__(self) -> str:
        """Return the modules and the code."""
        self.write_code()
        return super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickles it: the code, of which torch makes a plain graph module."""
        self.write_code()
        return super().__reduce__()


def drop_code(graph_module: fx.GraphModule) -> None:
    """Have the code of a graph module written anew, after its graph changed; late where it can be."""
    if isinstance(graph_module, LateGraphModule):
        graph_module.drop_code()
    else:
        graph_module.recompile()


def write_code(graph_module: fx.GraphModule) -> None:
    """Write the code of a graph module now: some readers, torch.fx's tracer among them, look for it on the class."""
    if isinstance(graph_module, LateGraphModule):
        graph_module.write_code()


def assemble(graph: fx.Graph, attributes: Mapping[str, Attribute], class_name: str) -> fx.GraphModule:
    """Build a GraphModule in evaluation form that holds every attribute, also those that no node reads.

    Modules on the way to the tensors come in the order in which the graph reads them.

    Args:
        graph: Owned by the result from here on; its code generator decides the calling convention.
        attributes: By dotted name. The same Parameter under two names stays one Parameter.
        class_name: Name of the result's class.
    """
    graph_module = LateGraphModule(nn.Module(), fx.Graph(), class_name)
    for node in graph.find_nodes(op="get_attr"):
        _owner(graph_module, str(node.target))
    return _filled(graph_module, graph, attributes)


def assemble_in_order(graph: fx.Graph, attributes: Mapping[str, Attribute], class_name: str) -> fx.GraphModule:
    """Build a GraphModule as `assemble` does, with modules in the order of the attributes.

    A copy lists its tensors as the original does, so that the first of several tied names stays the first.

    Args:
        graph: Owned by the result from here on.
        attributes: By dotted name.
        class_name: Name of the result's class.
    """
    return _filled(LateGraphModule(nn.Module(), fx.Graph(), class_name), graph, attributes)


def _filled(graph_module: LateGraphModule, graph: fx.Graph, attributes: Mapping[str, Attribute]) -> fx.GraphModule:
    for name, attribute in attributes.items():
        attach(graph_module, name, attribute)
    graph_module.graph = graph
    return graph_module.eval()


def attach(root: nn.Module, name: str, attribute: Attribute) -> None:
    """Put an attribute under a dotted name, making the modules on the way."""
    owner, leaf = _owner(root, name)
    _clear(owner, leaf)
    if isinstance(attribute.value, nn.Module):
        owner.add_module(leaf, attribute.value)
    elif isinstance(attribute.value, nn.Parameter):
        owner.register_parameter(leaf, attribute.value)
    else:
        owner.register_buffer(leaf, attribute.value, persistent=attribute.persistent)


def named_attributes(module: nn.Module) -> dict[str, Attribute]:
    """Return every parameter and buffer of a module, and every body of a graph module, by its dotted name."""
    bodies = _bodies(module)
    inside = tuple(f"{name}." for name in bodies)
    found: dict[str, Attribute] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for leaf, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            found[start + leaf] = Attribute(parameter)
        for leaf, buffer in owner.named_buffers(recurse=False, remove_duplicate=False):
            found[start + leaf] = Attribute(buffer, leaf not in owner._non_persistent_buffers_set)
    return {name: attribute for name, attribute in found.items() if not name.startswith(inside)} | bodies


def _bodies(module: nn.Module) -> dict[str, Attribute]:
    if not isinstance(module, fx.GraphModule):
        return {}
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    children = ((name, child) for name, child in module.named_children() if name in read)
    return {name: Attribute(child) for name, child in children}


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a dotted name, made where it is missing, and the last part of the name."""
    *path, leaf = name.split(".")
    owner = root
    for part in path:
        owner = _descend(owner, part)
    return owner, leaf


def _descend(owner: nn.Module, part: str) -> nn.Module:
    held = owner._modules.get(part)
    if held is None:
        _clear(owner, part)
        held = nn.Module()
        owner.add_module(part, held)
    return held


def _clear(owner: nn.Module, leaf: str) -> None:
    for table in (owner._parameters, owner._buffers, owner._modules):
        table.pop(leaf, None)
    owner._non_persistent_buffers_set.discard(leaf)
