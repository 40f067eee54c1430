"""Branches beside a shortcut that computes something itself, such as a convolution that changes the width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from graphopt.program import Program
from graphopt.regions import Regions, SampleFlow
from graphopt.regions.kinds import BranchKind, kind_of
from graphopt.regions.sample import is_addition
from graphopt.regions.structure import module_of


@dataclass(frozen=True)
class Shortcut:
    """A sum of two values neither of which is computed from the other; the one that takes less work stays.

    Attributes:
        id: Such as ``shortcut.0``, in the order of execution.
        kind: What the other operand computes.
        add: The sum.
        base: The operand that stays.
        module: Dotted path of the user's module that computes the other operand.
    """

    id: str
    kind: BranchKind
    add: str
    base: str
    module: str


def find_shortcuts(program: Program, regions: Regions) -> tuple[Shortcut, ...]:
    """Find the sums of two computed values of one shape, without the residual adds that regions tell already.

    Args:
        program: the captured program.
        regions: its regions.
    """
    flow = SampleFlow(program, regions.sample)
    known = {branch.add for branch in regions.branches}
    nodes = (node for node in flow.dependent if node.name not in known and is_addition(node))
    found = (side for node in nodes for side in _sides(flow, node))
    return tuple(Shortcut(f"shortcut.{number}", *side) for number, side in enumerate(found))


def _sides(flow: SampleFlow, node: fx.Node) -> Iterator[tuple[BranchKind, str, str, str]]:
    """Yield kind, sum, operand that stays, and module of the other one, where a sum has two sides."""
    operands = node.all_input_nodes
    if len(operands) != 2 or not all(map(flow.depends, operands)) or not flow.alike(*operands):
        return
    private = [_private(flow, operand, other) for operand, other in (operands, reversed(operands))]
    work = [sum(flow.macs.get(member, 0) for member in members) for members in private]
    if not all(private) or not any(work):
        return
    large = max((0, 1), key=work.__getitem__)
    members = private[large]
    module = module_of(member for member in members if flow.macs.get(member))
    yield kind_of(flow, members), node.name, operands[1 - large].name, module


def _private(flow: SampleFlow, value: fx.Node, other: fx.Node) -> list[fx.Node]:
    """Return the nodes that a value is computed from and another one is not, itself included."""
    return flow.members(flow.upstream(value) & ~flow.upstream(other))
