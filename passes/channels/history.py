"""The captured program behind a rewritten one: everything is chosen in its indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from graphopt.assembly import Attribute
from graphopt.copying import copy_graph
from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.errors import PreconditionError
from graphopt.pass_manager import PassContext
from graphopt.program import Compensate, Program
from graphopt.proof.masking import mask_tensors
from graphopt.rewrite.ancestry import base_of
from graphopt.scores import Gradients, Scorer


@dataclass(frozen=True, eq=False)
class Ancestor:
    """The captured program that a program descends from.

    Attributes:
        graph: its dependency graph.
        kept: what earlier passes left of each axis.
    """

    graph: DependencyGraph
    kept: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, program: Program, *, regroup: bool, compensate: Compensate) -> Ancestor:
        """Analyse the captured program with the weights of this one; a program without history is its own.

        What prune-layers left out stays out.

        Raises:
            PreconditionError: if an earlier pass chose the other kind of ``regroup``, or compensated in another way.
        """
        lineage = program.lineage
        if lineage is not None and lineage.kept and lineage.regroup != regroup:
            raise PreconditionError(
                f"the program was pruned with regroup={str(lineage.regroup).lower()} before, which has other axes than "
                f"regroup={str(regroup).lower()}; give every prune-channels of a pipeline the same regroup"
            )
        if lineage is not None and lineage.compensate not in ("none", compensate):
            raise PreconditionError(
                f"the program was pruned with compensate={lineage.compensate} before, which rescaled its norms; give "
                f"every prune-channels of a pipeline the same, found compensate={compensate}"
            )
        return cls(DependencyGraph(base_of(program), regroup=regroup), lineage.kept if lineage else {})

    def scores(
        self,
        current: Program,
        kept: Mapping[str, tuple[int, ...]],
        groups: Sequence[Group],
        importance: str,
        context: PassContext,
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Scores of every unit, shape ``(size,)`` a group, in the original's indices; what is gone counts as zero.

        Args:
            current: the program as it is now.
            kept: what is left of each axis.
            groups: the axes to score.
            importance: name of the importance.
            context: data, loss and seed where the importance needs them.
        """
        gone = {name: indices for name, indices in kept.items() if len(indices) < self.graph.leaf(name).size}
        if not gone:
            scorer = Scorer.prepare(self.graph.program, context, importance)
        else:
            gradients = Scorer.gradients_for(current, context, importance)
            grown = None if gradients is None else self._grown(gradients, gone)
            scorer = Scorer(self._masked(gone), importance, gradients=grown, seed=context.seed)
        scores = {group.id: scorer.score(group).numpy() for group in groups if scorer.scorable(group)}
        return scores, scorer.notes

    def _masked(self, kept: Mapping[str, tuple[int, ...]]) -> Program:
        """The captured program with everything zeroed that is gone."""
        masks = self.graph.masks(kept)
        duplicate = copy_graph(self.graph.program.graph_module)
        values = mask_tensors(self.graph, masks, self.graph.tensors)
        for name, value in values.items():
            old = duplicate.attributes[name]
            value = torch.nn.Parameter(value.detach()) if isinstance(old.value, torch.nn.Parameter) else value
            duplicate.attributes[name] = Attribute(value, old.persistent)
        return replace(self.graph.program, graph_module=duplicate.assemble())

    def _grown(self, gradients: Gradients, kept: Mapping[str, tuple[int, ...]]) -> Gradients:
        """Gradients in the original's shapes, zero where something is gone."""
        return replace(
            gradients,
            sums={name: self._grown_tensor(name, value, kept) for name, value in gradients.sums.items()},
            squares={name: self._grown_tensor(name, value, kept) for name, value in gradients.squares.items()},
        )

    def _grown_tensor(self, name: str, value: Tensor, kept: Mapping[str, tuple[int, ...]]) -> Tensor:
        masks = self.graph.masks(kept)
        for dim, size in enumerate(self.graph.tensors[name].shape):
            if value.shape[dim] != size:
                indices = torch.from_numpy(self.graph.kept_indices(name, dim, masks))
                shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])
                value = value.new_zeros(shape).index_copy(dim, indices, value)
        return value
