"""Residual adds: sums of a value and of what a branch computed from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from graphopt.regions.sample import SampleFlow, is_addition


@dataclass(frozen=True)
class Residual:
    """A sum ``base + value`` whose second operand is computed from the first.

    Attributes:
        add: The sum.
        base: Its operand that goes around the branch.
        value: Its operand that comes out of the branch.
        root: The value that the branch starts from: the base, or an earlier one on the base's own chain of sums where
            branches run in parallel.
        inside: Nodes on paths from the root to the value, as bits of the flow.
    """

    add: fx.Node
    base: fx.Node
    value: fx.Node
    root: fx.Node
    inside: int


def residual_adds(flow: SampleFlow) -> list[Residual]:
    """Return the residual adds in the order of execution.

    Both operands depend on the sample and are of one shape, one is computed from the other, and something is
    contracted on the way; a shift, a position embedding or a scale written as ``x + x * s`` is therefore none. In
    ``(x + f(x)) + g(x)`` both sums are residual.
    """
    found: dict[fx.Node, Residual] = {}
    for node in flow.dependent:
        residual = _residual(flow, node, found)
        if residual is not None:
            found[node] = residual
    return list(found.values())


def _residual(flow: SampleFlow, node: fx.Node, found: dict[fx.Node, Residual]) -> Residual | None:
    if not is_addition(node) or not all(flow.depends(operand) for operand in node.args):
        return None
    left, right = node.all_input_nodes[0], node.all_input_nodes[-1]
    if left is right or not flow.alike(left, right):
        return None
    for base, value in ((left, right), (right, left)):
        for root in _chain(base, found):
            inside = flow.between(root, value) if flow.reaches(root, value) else 0
            if flow.computes(inside):
                return Residual(node, base, value, root, inside)
    return None


def _chain(base: fx.Node, found: dict[fx.Node, Residual]) -> Iterator[fx.Node]:
    """Yield a base, and the value that its own branch starts from where it is a residual add."""
    yield base
    if base in found:
        yield found[base].root
