"""Assignments as AsyncDiff writes its components: lists of modules, everything else computed wherever it is read."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from graphopt.program import Program
from graphopt.rewrite.placing.placed import Roles, output_nodes


def assign_modules(program: Program, components: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the names of the nodes that each device computes, as `stage` takes them.

    A device computes the modules of its component, and of what no component lists (embeddings of the timestep,
    concatenations of skips, normalisations in between) all that its modules read. What follows the last module is the
    last device's.

    Args:
        program: Captured from a model whose modules these are.
        components: Names of modules, one list a device.
    """
    roles = Roles(program.graph_module)
    owner = {node: _owner(node, components) for node in roles.values}
    assigned = []
    for device in range(len(components)):
        wanted = {node for node in roles.values if owner[node] == device}
        if device == len(components) - 1:
            wanted |= {node for node in output_nodes(program.graph_module) if node in owner}
        for node in reversed(roles.values):
            if node in wanted:
                wanted |= {operand for operand in roles.operands(node) if owner[operand] in (None, device)}
        assigned.append([node.name for node in roles.values if node in wanted and node.op != "placeholder"])
    return assigned


def _owner(node: fx.Node, components: Sequence[Sequence[str]]) -> int | None:
    """The component that lists a module around a node; None where no one does."""
    stack: Any = node.meta.get("nn_module_stack") or {}
    paths = {str(path) for path, _ in stack.values()}
    return next((number for number, names in enumerate(components) if not paths.isdisjoint(names)), None)
