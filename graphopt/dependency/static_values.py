"""Values that are computed from parameters, buffers and constants alone."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import Aliases, is_mutating
from graphopt.dependency.analysis import Analysis, attribute

Value = Tensor | tuple[Tensor, ...] | list[Tensor]


class StaticValues:
    """What the tensors hold that no input of the model has a part in, and that nothing writes to.

    Args:
        analysis: of a program with weights.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._found: dict[fx.Node, object] = {}
        self._memory: dict[fx.Graph, Aliases] = {}
        known = analysis.facts.weights - analysis.failures.keys()
        with torch.no_grad():
            for node in (node for node in analysis.order if node in known and not self._is_written(node)):
                self._compute(node)

    def get(self, node: fx.Node) -> Tensor | None:
        """What a value holds; None where inputs have a part in it, or where it is no tensor."""
        found = self._found.get(node)
        return found if isinstance(found, Tensor) else None

    def _is_written(self, node: fx.Node) -> bool:
        """Whether an operator writes to the memory of a value, through a view of it too."""
        module = node.graph.owning_module
        if module is None:
            return True
        if node.graph not in self._memory:
            self._memory[node.graph] = Aliases(module)
        return self._memory[node.graph].is_written(node)

    def _compute(self, node: fx.Node) -> None:
        if node.op == "get_attr" and node.graph.owning_module is not None:
            self._found[node] = attribute(node.graph.owning_module, str(node.target))
            return
        operands = node.all_input_nodes
        if node.op != "call_function" or not _is_plain(node) or any(item not in self._found for item in operands):
            return
        args, kwargs = pytree.tree_map_only(fx.Node, self._found.__getitem__, (node.args, node.kwargs))
        self._found[node] = node.target(*args, **kwargs) if callable(node.target) else None


def _is_plain(node: fx.Node) -> bool:
    """Whether an operator gives the same for the same operands and writes nothing."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or is_mutating(node.target):
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags
