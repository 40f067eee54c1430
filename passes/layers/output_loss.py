"""Output loss: how far the final output moves when branches or blocks are left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.errors import PreconditionError
from graphopt.pass_manager import PassContext
from graphopt.passes.layers.units import Unit
from graphopt.program import Program
from graphopt.rewrite.bypassing import bypassed_graph
from graphopt.running import run_apart
from graphopt.scores import call_batch
from graphopt.scores.calibration import numbered_batches


class OutputLoss:
    """Measures what leaving out units does to the outputs of a program.

    Args:
        program: the program.
        context: calibration batches.

    Raises:
        PreconditionError: there are no batches, or one does not run.

    References:
        Zhang et al., LAPTOP-Diff, arXiv 2404.11098: the loss of several layers is close to the sum of their losses.
        There it is a mean over samples; here it is divided by the outputs' squared norm, which makes it readable.
    """

    def __init__(self, program: Program, context: PassContext) -> None:
        self._program, self._context = program, context
        self._originals = list(map(_floating, self._outputs(program.graph_module)))

    def __call__(self, units: Sequence[Unit]) -> float:
        """Return the squared L2 distance of the outputs without some units to the original ones, over their norm.

        Floating-point outputs of all batches count together.

        Raises:
            PreconditionError: the outputs are not finite.
        """
        pairs = [{after.name: before.name for after, before in unit.pairs} for unit in units]
        distance = norm = 0.0
        found = map(_floating, self._outputs(bypassed_graph(self._program, pairs)))
        for wanted, given in zip(self._originals, found, strict=True):
            distance += sum(
                float(torch.sum((one - other).abs() ** 2)) for one, other in zip(wanted, given, strict=True)
            )
            norm += sum(float(torch.sum(one.abs() ** 2)) for one in wanted)
        loss = distance / norm if norm else distance
        if math.isfinite(loss):
            return loss
        raise PreconditionError(
            f"the output without {', '.join(unit.id for unit in units)} is not finite, so it has no distance to the "
            "original; look for NaN in the batches, or ignore these"
        )

    def _outputs(self, graph_module: fx.GraphModule) -> Iterator[Any]:
        return run_batches(self._program, graph_module, self._context, "importance output-loss")


def single_losses(program: Program, units: Sequence[Unit], context: PassContext) -> list[float]:
    """Output loss of leaving out each unit alone."""
    measure = OutputLoss(program, context)
    return [measure([unit]) for unit in units]


def run_batches(program: Program, graph_module: fx.GraphModule, context: PassContext, purpose: str) -> Iterator[Any]:
    """Yield the outputs of a graph of a program on every calibration batch, its state put back after each.

    Raises:
        PreconditionError: there are no batches, or one does not run.
    """
    runner = replace(program, graph_module=graph_module)
    for number, batch in numbered_batches(context.need_calibration(purpose), purpose):
        try:
            yield call_batch(lambda *args, **kwargs: run_apart(runner, args, kwargs), batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PreconditionError(
                f"calibration batch {number} does not run: {error}\nwanted arguments like the example inputs the "
                "program was captured with; where the batch holds a target too, use graphopt.scores.Batch"
            ) from error


def _floating(output: Any) -> list[Tensor]:
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    return [_wide(leaf) for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float64))
