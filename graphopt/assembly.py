"""Build a plain GraphModule from a graph and named tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

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


def assemble(graph: fx.Graph, attributes: Mapping[str, Attribute], class_name: str) -> fx.GraphModule:
    """Build a GraphModule in evaluation form that holds every attribute, also those that no node reads.

    Args:
        graph: Owned by the result from here on; its code generator decides the calling convention.
        attributes: By dotted name. The same Parameter under two names stays one Parameter.
        class_name: Name of the result's class.
    """
    root = nn.Module()
    for name, attribute in attributes.items():
        attach(root, name, attribute)
    graph_module = fx.GraphModule(root, graph, class_name)
    for name, attribute in attributes.items():
        attach(graph_module, name, attribute)
    return graph_module.eval()


def attach(root: nn.Module, name: str, attribute: Attribute) -> None:
    """Put an attribute under a dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    owner = root
    for part in path:
        owner = _descend(owner, part)
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


def _descend(owner: nn.Module, part: str) -> nn.Module:
    if part not in owner._modules:
        _clear(owner, part)
        owner.add_module(part, nn.Module())
    return owner.get_submodule(part)


def _clear(owner: nn.Module, leaf: str) -> None:
    for table in (owner._parameters, owner._buffers, owner._modules):
        table.pop(leaf, None)
    owner._non_persistent_buffers_set.discard(leaf)
