"""Importance: how much a unit matters. A new one is a function and a line of the table.

Every importance sums over all members of the group, weights and biases of normalisations included, and is not
normalised by group: dividing by a group's mean would hide which groups matter less than others.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from graphopt.dependency.graph import Group
from graphopt.scores.evidence import Evidence, Slab


@dataclass(frozen=True)
class Importance:
    """One way to score the units of a group.

    Attributes:
        function: Gives float64 scores on the CPU, shape ``(group.size,)``; higher is kept longer.
        gradients: Whether it reads gradients.
        squares: Whether it reads squared gradients.
    """

    function: Callable[[Group, Evidence], Tensor]
    gradients: bool = False
    squares: bool = False


def squared_weight(slab: Slab) -> Tensor:
    """Return w²."""
    return slab.weight.square_()


def absolute_weight(slab: Slab) -> Tensor:
    """Return |w|."""
    return slab.weight.abs_()


def first_order(slab: Slab) -> Tensor:
    """Return w·g, minus the change of the loss to first order when the element becomes zero."""
    return slab.weight * slab.gradient


def absolute_first_order(slab: Slab) -> Tensor:
    """Return |w·g|."""
    return first_order(slab).abs()


def fisher_curvature(slab: Slab) -> Tensor:
    """Return w²·Σg², with Σg² in place of the Hessian's diagonal."""
    return slab.weight.square() * slab.squared_gradient


def magnitude(group: Group, evidence: Evidence) -> Tensor:
    """Score by Σw² over all that a unit takes, the squared L2 norm of the group.

    References:
        Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900.
    """
    return evidence.total(group, squared_weight)


def l1(group: Group, evidence: Evidence) -> Tensor:
    """Score by Σ|w| over all that a unit takes.

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710. They sum over one layer's
        filter, we over all members of the group.
    """
    return evidence.total(group, absolute_weight)


def bn_scale(group: Group, evidence: Evidence) -> Tensor:
    """Score by Σ|γ| over the weights of normalisations that a unit takes.

    A group without one is scored by `l1` and noted. Among its own units and those of its class that ranks as well;
    beside scales of other groups its sums are the larger ones, so under a global scope it is pruned late.

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519.
        They read batch normalisation only.
    """
    if not evidence.members(group, evidence.norms):
        evidence.notes.append(f"group {group.id} has no weight of a normalisation: scored by l1 instead of bn-scale")
        return l1(group, evidence)
    return evidence.total(group, absolute_weight, among=evidence.norms)


def random_score(group: Group, evidence: Evidence) -> Tensor:
    """Score uniformly in [0, 1), by the seed and the group's id."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{evidence.seed} {group.id}".encode()))
    return torch.rand(group.size, dtype=torch.float64, generator=generator)


def taylor(group: Group, evidence: Evidence) -> Tensor:
    """Score by Σ|Σ w·g|: the inner sum over one row or column of a tensor, the outer over all that a unit takes.

    References:
        Ma et al., "LLM-Pruner: On the Structural Pruning of Large Language Models", NeurIPS 2023, arXiv:2305.11627
        (the vector-wise score).
    """
    return evidence.total(group, first_order, absolute=True)


def taylor_element(group: Group, evidence: Evidence) -> Tensor:
    """Score by Σ|w·g| over all that a unit takes.

    References:
        Ma et al., "LLM-Pruner: On the Structural Pruning of Large Language Models", NeurIPS 2023, arXiv:2305.11627
        (the element-wise score); also Fang et al., "Structural Pruning for Diffusion Models", NeurIPS 2023,
        arXiv:2305.10924, where gradients are summed over timesteps.
    """
    return evidence.total(group, absolute_first_order)


def second_order(group: Group, evidence: Evidence) -> Tensor:
    """Score by Σ w²·Σg² over all that a unit takes, the curvature term alone.

    References:
        Ma et al., "LLM-Pruner: On the Structural Pruning of Large Language Models", NeurIPS 2023, arXiv:2305.11627
        (the second-order score). The factors ½ and 1/batches do not change a ranking and are left out.
    """
    return evidence.total(group, fisher_curvature)


IMPORTANCES: Mapping[str, Importance] = MappingProxyType(
    {
        "magnitude": Importance(magnitude),
        "l1": Importance(l1),
        "bn-scale": Importance(bn_scale),
        "random": Importance(random_score),
        "taylor": Importance(taylor, gradients=True),
        "taylor-element": Importance(taylor_element, gradients=True),
        "second-order": Importance(second_order, gradients=True, squares=True),
    }
)
"""Every importance by its name in text."""
