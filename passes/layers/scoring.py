"""Importances of branches and blocks: how much is lost with each one, never negative, less is left out first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from graphopt.pass_manager import PassContext
from graphopt.passes.layers.output_loss import single_losses
from graphopt.passes.layers.similarity import block_influences
from graphopt.passes.layers.units import Unit
from graphopt.program import Program
from graphopt.scores import collect_gradients
from graphopt.scores.parameters import require_values, scored_parameters

Score = Callable[[Program, Sequence[Unit], PassContext], list[float]]


def magnitudes(program: Program, units: Sequence[Unit], context: PassContext) -> list[float]:
    """Sum of the absolute values of the weights that go with each unit."""
    weights = scored_parameters(program)
    for unit in units:
        for name in unit.weights:
            if name in weights:
                require_values(name, weights[name], "parameter")
    sizes = {name: float(weight.abs().sum(dtype=torch.float64)) for name, weight in weights.items()}
    return [sum(sizes.get(name, 0.0) for name in unit.weights) for unit in units]


def taylor(program: Program, units: Sequence[Unit], context: PassContext) -> list[float]:
    """Absolute sum of gradient times weight over the weights that go with each unit."""
    weights, gradients = scored_parameters(program), collect_gradients(program, context).sums
    terms = {name: float((gradients[name].double() * weight.double()).sum()) for name, weight in weights.items()}
    return [abs(sum(terms.get(name, 0.0) for name in unit.weights)) for unit in units]


def randoms(program: Program, units: Sequence[Unit], context: PassContext) -> list[float]:
    """A random number for each unit, the same for the same seed."""
    generator = torch.Generator().manual_seed(context.seed)
    return torch.rand(len(units), generator=generator, dtype=torch.float64).tolist()


@dataclass(frozen=True)
class Importance:
    """How units are scored.

    Attributes:
        score: gives one number a unit.
        references: papers it is made after.
    """

    score: Score
    references: tuple[str, ...] = ()


IMPORTANCES: Mapping[str, Importance] = {
    "bi": Importance(block_influences, ("arXiv:2403.03853",)),
    "magnitude": Importance(magnitudes),
    "taylor": Importance(taylor),
    "output-loss": Importance(single_losses, ("arXiv:2404.11098",)),
    "random": Importance(randoms),
}
"""Importances by the name that the option takes."""
