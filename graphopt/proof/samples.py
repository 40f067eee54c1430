"""Proof of a coupling rule on its own sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from graphopt.dependency.analysis import Omission
from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.registry import Rule, Sample, find_rule
from graphopt.errors import GraphoptError, VerificationError
from graphopt.program import Program
from graphopt.proof.comparison import TOLERANCE, Comparison, compare
from graphopt.proof.randomise import random_parameters
from graphopt.rewrite.slicing import slice_axes
from graphopt.tracing import capture

FEATURES = 5
BATCH = 16


class SampleModule(nn.Module):
    """A sample between weights: every dimension of every operand is produced by one weight and read by another."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.sample = sample
        self.producers = nn.ParameterList(
            nn.Parameter(torch.randn(math.prod(shape), FEATURES)) for shape in sample.operands
        )
        self.raw = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(shape)) for name, shape in sample.parameters.items()}
        )
        with torch.no_grad():
            outputs = self._outputs(torch.zeros(BATCH, FEATURES))
        self.consumers = nn.ParameterList(nn.Parameter(torch.randn(2, out[0].numel())) for out in outputs)

    def _outputs(self, value: Tensor) -> list[Tensor]:
        operands = [
            nn.functional.linear(value, weight).reshape(-1, *shape)
            for weight, shape in zip(self.producers, self.sample.operands, strict=True)
        ]
        out = self.sample.call(*operands, **dict(self.raw.items()))
        return [out] if isinstance(out, Tensor) else [item for item in out if item.is_floating_point()]

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        """``value: (batch, FEATURES)``; one ``(batch, 2)`` tensor for each output of the operator."""
        outputs = self._outputs(value)
        return tuple(
            nn.functional.linear(out.flatten(1).float(), weight)
            for out, weight in zip(outputs, self.consumers, strict=True)
        )


@dataclass(frozen=True)
class AxisProof:
    """Mask equals slice on several choices of units of one axis."""

    axis: str
    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        """Whether the choices had an effect and the two programs agree on all of them."""
        return max(item.effect for item in self.comparisons) > 0 and all(
            item.error < TOLERANCE for item in self.comparisons
        )


def sample_program(rule: Rule, seed: int = 0) -> Program:
    """Capture the sample of a rule.

    Raises:
        VerificationError: if the rule has no sample.
    """
    if rule.sample is None:
        raise VerificationError(f"the rule of {rule.target} has no sample; give coupling_rule one to prove it on")
    torch.manual_seed(seed)
    return capture(SampleModule(rule.sample), (torch.randn(BATCH, FEATURES),))


def kept_choices(group: Group) -> Iterator[dict[str, list[int]]]:
    """Choices that tell indices apart: all but the first, all but the last, every second."""
    indices = np.arange(group.size)
    for chosen in (indices[1:], indices[:-1], indices[::2]):
        yield {group.id: chosen.tolist()}


def prove_groups(graph: DependencyGraph, seed: int = 1) -> list[AxisProof]:
    """Prove mask equals slice on several choices of every axis of a graph."""
    program = graph.program
    values = random_parameters(program.parameters, seed)
    inputs = (program.args, program.kwargs)
    return [
        AxisProof(
            group.id,
            tuple(compare(graph, slice_axes(graph, kept), kept, values, inputs) for kept in kept_choices(group)),
        )
        for group in graph.groups
    ]


def prove_rule(rule: Rule) -> list[AxisProof]:
    """Prove a rule on its sample.

    Returns:
        One proof for each axis, all of which hold.

    Raises:
        VerificationError: if the rule does not fit its sample, offers no axis, or a proof fails.
    """
    graph = DependencyGraph(sample_program(rule))
    for node, reason in graph.analysis.failures.items():
        raise VerificationError(f"the sample of {rule.target} is not understood at {node.name}: {reason}")
    proofs = prove_groups(graph)
    if not proofs:
        raise VerificationError(f"the sample of {rule.target} offers no axis, so its rule is not proved")
    for proof in proofs:
        if not proof.holds:
            raise VerificationError(
                f"{rule.target} on axis {proof.axis}: masked and sliced differ, {proof.comparisons}"
            )
    return proofs


def unneeded_ties(rule: Rule) -> list[Omission]:
    """Ties of a rule that may be left out without its sample's proof failing; a good sample has none."""
    program = sample_program(rule)
    facts = DependencyGraph(program).analysis.facts
    omissions = [
        Omission(node.name, tie)
        for node, count in facts.ties.items()
        if find_rule(node.target) is rule and not _frames(node)
        for tie in range(count)
    ]
    return [omission for omission in omissions if _survives(DependencyGraph(program, omission=omission))]


def _frames(node: fx.Node) -> bool:
    """Whether a node is one of the weights around the operator."""
    return any(str(item.target).startswith(("producers.", "consumers.")) for item in node.all_input_nodes)


def _survives(graph: DependencyGraph) -> bool:
    try:
        return all(proof.holds for proof in prove_groups(graph))
    except (GraphoptError, RuntimeError, ValueError, IndexError):
        return False
