"""Structured zeros, as sparse training with a group penalty leaves them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import graphopt
from backend_comparison.subjects import Subject
from graphopt.dependency.graph import Group
from graphopt.proof.masking import mask_tensors


@dataclass(frozen=True)
class Masked:
    """What was zeroed.

    Attributes:
        axes: number of axes of which a share of the indices was zeroed.
        parameters: share of the parameters that are zero now.
    """

    axes: int
    parameters: float


def mask(subject: Subject, share: float) -> Masked:
    """Zero a share of the indices of every axis, the smallest by norm, in all parameters that belong to them.

    Axes that a normalisation's statistic runs over are left whole: what is zero there is no less part of it.
    """
    program = graphopt.capture(subject.model, subject.args, subject.kwargs)
    graph = graphopt.DependencyGraph(program)
    kept = {}
    for group in graph.groups:
        count = group.size - int(share * group.size)
        if not group.marks and count < group.size:
            norms = _norms(graph, group)
            kept[group.id] = tuple(sorted(int(index) for index in np.argsort(-norms, kind="stable")[:count]))
    masked = mask_tensors(graph, graph.masks(kept), program.parameters)
    subject.model.load_state_dict(masked, strict=False)
    tensors = list(subject.model.parameters())
    zeros = sum(int((tensor == 0).sum()) for tensor in tensors)
    return Masked(len(kept), zeros / sum(tensor.numel() for tensor in tensors))


def _norms(graph: graphopt.DependencyGraph, group: Group) -> np.ndarray:
    """Squared norm of every index over the axis's members."""
    total = np.zeros(group.size)
    for member in group.members:
        tensor = graph.tensors[member.tensor]
        if tensor.is_floating_point():
            rows = tensor.detach().double().movedim(member.dim, 0).unsqueeze(-1).flatten(1)
            total += rows.square().sum(1).numpy()[member.indices()].sum(axis=1)
    return total
