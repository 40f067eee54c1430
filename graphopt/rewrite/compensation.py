"""Compensation: statistics over a sliced axis keep the values that they have in the masked original.

A mean over what is kept is not the mean over everything with the removed part at zero. Two ways lead back to it.
``scale`` changes numbers alone: the weight and ``eps`` of RMS norms, a factor behind a plain mean. ``exact`` also
writes out LayerNorm, GroupNorm, variances and extremes in a handful of operators that count the removed elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from graphopt.arguments import arguments_of
from graphopt.copying import GraphCopy
from graphopt.dependency.graph import DependencyGraph
from graphopt.plan import Plan, make_plan
from graphopt.program import Compensate
from graphopt.rewrite.constants import set_argument
from graphopt.rewrite.gains import Gain, Scale, common_scales, epsilon_of, gain_of
from graphopt.rewrite.moments import COMPENSATED, Workshop
from graphopt.rewrite.statistics import Touched, is_zero, touched_statistics
from graphopt.rewrite.written_out import Action, written_out

aten = torch.ops.aten
MEANS = frozenset({aten.mean.dim, aten.mean.default})


@dataclass(frozen=True)
class Remedies:
    """What makes up for removed indices in the statistics that run over them.

    Attributes:
        scales: factor and shift of every rescaled tensor, by first name.
        actions: for each statistic that is made up for, what changes the rewritten graph.
        touched: how many statistics run over something removed.
    """

    scales: Mapping[str, Scale]
    actions: Mapping[fx.Node, Action]
    touched: int = 0

    def scaled(self, name: str, tensor: Tensor) -> Tensor:
        """The new value of a tensor.

        Args:
            name: first name of the tensor.
            tensor: its kept part.
        """
        return rescaled(tensor, self.scales[name]) if name in self.scales else tensor

    def apply(self, duplicate: GraphCopy) -> None:
        """Change the copy of the original's graph."""
        for action in self.actions.values():
            action(duplicate)


def rescaled(tensor: Tensor, scale: Scale) -> Tensor:
    """``factor * tensor + shift``."""
    factor, shift = scale
    return tensor.detach() * factor + shift


def restored(tensor: Tensor, scale: Scale) -> Tensor:
    """What `rescaled` was given, up to rounding."""
    factor, shift = scale
    return (tensor.detach() - shift) / factor


def remedies(graph: DependencyGraph, kept: Mapping[str, Sequence[int]], compensate: Compensate) -> Remedies:
    """Decide how every statistic that loses something is made up for.

    Args:
        graph: analysis of the original.
        kept: kept indices by axis id.
        compensate: ``none``, ``scale`` or ``exact``.
    """
    if compensate == "none":
        return Remedies({}, {})
    touched = touched_statistics(graph, graph.masks(kept))
    plain = {node: one for node, one in touched.items() if is_zero(graph, one)}
    factors = {node: math.sqrt(1 / one.share) for node, one in plain.items()}
    gains = {node: gain for node in plain if (gain := _gain(graph, node)) is not None}
    scales = common_scales(graph, {node: (gain, factors[node]) for node, gain in gains.items()})
    actions: dict[fx.Node, Action] = {}
    for node, one in touched.items():
        gain = gains.get(node)
        folded = gain is not None and graph.names[str(gain.weight.target)] in scales
        action = _folded(one, gain) if folded and gain is not None else _factor(one) if node in plain else None
        action = written_out(graph, one) if action is None and compensate == "exact" else action
        if action is not None:
            actions[node] = action
    return Remedies(scales, actions, len(touched))


def compensated_plan(
    graph: DependencyGraph, kept: Mapping[str, tuple[int, ...]], passes: tuple[str, ...], compensate: Compensate
) -> Plan:
    """The plan that keeps these indices and makes up for the others; the arguments are those of `make_plan`."""
    scales = remedies(graph, kept, compensate).scales
    return replace(make_plan(graph, kept, passes), compensate=compensate, scales=scales)


def _gain(graph: DependencyGraph, node: fx.Node) -> Gain | None:
    """The gain of a norm whose weight is a tensor of the program."""
    gain = gain_of(node) if node.target in MEANS or node.target is aten.rms_norm.default else None
    return gain if gain is not None and str(gain.weight.target) in graph.names else None


# ------------------------------------------------------------------ numbers


def _folded(touched: Touched, gain: Gain) -> Action:
    """The weight takes the factor, so only ``eps`` is left to change."""

    def apply(duplicate: GraphCopy) -> None:
        set_argument(duplicate.nodes[gain.epsilon], gain.argument, None, gain.value / touched.share)
        duplicate.nodes[touched.node].meta[COMPENSATED] = True

    return apply


def _factor(touched: Touched) -> Action | None:
    """A factor behind a mean, or beside the weight of an RMS norm."""
    if touched.node.target in MEANS:
        return lambda duplicate: _multiply(duplicate, touched.node, touched.share)
    return (lambda duplicate: _beside_weight(duplicate, touched)) if _is_rms(touched.node) else None


def _beside_weight(duplicate: GraphCopy, touched: Touched) -> None:
    copy = duplicate.nodes[touched.node]
    weight, factor = arguments_of(copy)["weight"], math.sqrt(1 / touched.share)
    set_argument(copy, "eps", None, epsilon_of(touched.node) / touched.share)
    if weight is None:
        _multiply(duplicate, touched.node, factor)
        return
    copy.meta[COMPENSATED] = True
    set_argument(copy, "weight", None, Workshop(copy).call(aten.mul.Tensor, weight, factor))


def _multiply(duplicate: GraphCopy, node: fx.Node, factor: float) -> None:
    """Multiply a value by a number wherever it is read."""
    copy = duplicate.nodes[node]
    copy.meta[COMPENSATED] = True
    product = Workshop(copy.next).call(aten.mul.Tensor, copy, factor)
    copy.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
    duplicate.nodes[node] = product


def _is_rms(node: fx.Node) -> bool:
    return node.target is aten.rms_norm.default
