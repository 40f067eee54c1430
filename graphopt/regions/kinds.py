"""What a branch computes, told from the products of its operators."""

from __future__ import annotations

from typing import Literal

from torch import fx

from graphopt.macs import operator_name, tensor_operands
from graphopt.regions.sample import SampleFlow

BranchKind = Literal["attention", "cross-attention", "mlp", "convolution", "other"]


def kind_of(flow: SampleFlow, nodes: list[fx.Node]) -> BranchKind:
    """Return the kind of a branch from its nodes that depend on the sample.

    A product of two values that both depend on the sample is self-attention; one with a value that follows from other
    inputs is cross-attention; products with weights are convolutions or a feed-forward.
    """
    computing = [node for node in nodes if flow.macs.get(node)]
    if not computing:
        return "other"
    mixing = [node for node in computing if _mixes(flow, node)]
    if any(all(map(flow.depends, _factors(node))) for node in mixing):
        return "attention"
    if mixing:
        return "cross-attention"
    return "convolution" if any("conv" in operator_name(node) for node in computing) else "mlp"


def _mixes(flow: SampleFlow, node: fx.Node) -> bool:
    """Tell whether a product's factors are all activations, computed from some input."""
    return all(flow.depends(factor) or factor in flow.from_inputs for factor in _factors(node))


def _factors(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that a contraction multiplies: queries and keys of attention, not its values or mask."""
    operands = tensor_operands(node)
    if operator_name(node) in ("aten::baddbmm", "aten::addbmm", "aten::addmm", "aten::addmv"):
        return operands[1:3]
    return operands[:2]
