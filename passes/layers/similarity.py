"""Block influence: how much a branch or block turns the values that go through it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from graphopt.arguments import packet_of
from graphopt.copying import copy_graph
from graphopt.cost import integer_shape
from graphopt.errors import PreconditionError
from graphopt.pass_manager import PassContext
from graphopt.passes.layers.output_loss import run_batches
from graphopt.passes.layers.units import Unit
from graphopt.program import Program

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution}


class _Tally:
    """Sum and number of the cosines between two values of a program."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.total = 0.0
        self.count = 0

    def note(self, before: Tensor, after: Tensor) -> None:
        """Add the cosines of two tensors along the dimension of the features."""
        cosines = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=self.dim)
        self.total += float(cosines.sum())
        self.count += cosines.numel()


def block_influences(program: Program, units: Sequence[Unit], context: PassContext) -> list[float]:
    """One minus the mean cosine between what enters and what leaves each unit, over all positions and batches.

    Features lie along dimension 1 where the unit convolves tensors of the value's rank, along the last one otherwise.
    Of several streams the mean is taken over all their positions.

    Raises:
        PreconditionError: there are no batches, or the cosines are not finite.

    References:
        Men et al., ShortGPT, arXiv 2403.03853.
    """
    tallies = [[_Tally(_feature_dim(unit, after)) for after, _ in unit.pairs] for unit in units]
    copied = copy_graph(program.graph_module)
    for unit, own in zip(units, tallies, strict=True):
        for tally, (after, before) in zip(own, unit.pairs, strict=True):
            place = copied.nodes[after]
            with place.graph.inserting_after(place):
                place.graph.call_function(tally.note, (copied.nodes[before], place))
    for _ in run_batches(program, copied.assemble(), context, "importance bi"):
        pass
    return [_influence(unit, own) for unit, own in zip(units, tallies, strict=True)]


def _influence(unit: Unit, tallies: Sequence[_Tally]) -> float:
    total, count = sum(tally.total for tally in tallies), sum(tally.count for tally in tallies)
    influence = 1 - total / count if count else 0.0
    if influence != influence:  # NaN
        raise PreconditionError(f"{unit} takes or gives values that are not finite; look for NaN in the batches")
    return max(0.0, influence)


def _feature_dim(unit: Unit, value: fx.Node) -> int:
    rank = len(integer_shape(value.meta["val"]))
    convolved = {len(integer_shape(node.meta["val"])) for node in unit.nodes if packet_of(node) in CONVOLUTIONS}
    return 1 if rank > 2 and rank in convolved else -1
