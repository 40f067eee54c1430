"""Branches: what residual adds add, with the nodes that go when one is bypassed."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.regions.costing import Costing
from graphopt.regions.kinds import BranchKind, kind_of
from graphopt.regions.region import Branch
from graphopt.regions.residuals import Residual
from graphopt.regions.sample import SampleFlow
from graphopt.regions.structure import module_of, structure_key

aten = torch.ops.aten


def branch_kind(flow: SampleFlow, residual: Residual, adds: Collection[fx.Node]) -> BranchKind:
    """Return the kind of a residual add's branch; one that holds residual adds itself is of no single kind."""
    members = [node for node in flow.members(residual.inside) if node is not residual.root]
    return "other" if not set(members).isdisjoint(adds) else kind_of(flow, members)


def branch(flow: SampleFlow, costing: Costing, residual: Residual, kind: BranchKind, number: int) -> Branch:
    """Return a residual add's branch."""
    members = flow.members(residual.inside)
    nodes = flow.dying([residual.add], {residual.base})
    operators = [node for node in nodes if node.op == "call_function"]
    return Branch(
        id=f"branch.{number}",
        kind=kind,
        base=residual.base.name,
        value=residual.value.name,
        ungated=_ungated(residual, set(members)).name,
        add=residual.add.name,
        nodes=tuple(node.name for node in operators),
        module=module_of(node for node in members if flow.macs.get(node)),
        key=structure_key(operators),
        cost=costing.cost(nodes),
    )


def _ungated(residual: Residual, members: set[fx.Node]) -> fx.Node:
    """Return a branch's value before the gates: multiplications by tensors that do not lie on the branch."""
    value = residual.value
    while packet_of(value) is aten.mul:
        inner = [operand for operand in value.all_input_nodes if operand in members and operand is not residual.root]
        if len(value.all_input_nodes) != 2 or len(inner) != 1:
            break
        value = inner[0]
    return value
