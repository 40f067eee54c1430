"""The distance of a value from the stored one: one kernel for the residual and its relative L1 distance."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from graphopt.arguments import arguments_of, packet_of
from graphopt.rewrite.fusing.site import Site, binary
from graphopt.schedule import DISTANCE, Threshold

aten = torch.ops.aten
KERNEL = "relative_l1"


def fuse_probes(site: Site) -> None:
    """Let one kernel measure how far a slot's value has moved."""
    policy, step = site.schedule.policy, site.schedule.programs[site.name]
    if not step.measures or not isinstance(policy, Threshold):
        return
    slot = step.measures[-1]
    stored = site.places[slot]
    distance = pytree.tree_leaves(site.graph.output_node().args)[_place_of_distance(site)]
    fresh = _measured(distance, stored)
    if fresh is None:
        site.refuse(stored, f"{distance.name} is no relative L1 distance from {slot}")
        return
    for value, base in (binary(fresh, aten.sub) or (fresh, None), (fresh, None)):
        arguments = (value, base, stored, policy.threshold)
        if site.takes(KERNEL, arguments, distance, noted=stored):
            _put(site, arguments, fresh, distance)
            return


def _put(site: Site, arguments: tuple[Any, ...], fresh: fx.Node, distance: fx.Node) -> None:
    """Measure by the kernel; where it is given the base, it makes the residual too."""
    found = site.insert(KERNEL, arguments, distance)
    site.replace(distance, site.item(found, 1))
    if arguments[1] is not None:
        site.replace(fresh, site.item(found, 0))


def _place_of_distance(site: Site) -> int:
    """Place of the distance among all outputs, counted from the last one."""
    outputs = site.schedule.outputs(site.name)
    return outputs.index(DISTANCE) - len(outputs)


def _measured(distance: fx.Node, stored: fx.Node) -> fx.Node | None:
    """The value whose mean absolute change, over the mean magnitude of the stored one, a node is."""
    means = binary(distance, aten.div)
    if means is None or _averaged(means[1]) is not stored:
        return None
    change = _averaged(means[0])
    pair = binary(change, aten.sub) if change is not None else None
    return pair[1] if pair is not None and pair[0] is stored else None


def _averaged(mean: fx.Node) -> fx.Node | None:
    """What a node is the mean magnitude of."""
    magnitude: Any = mean.args[0] if packet_of(mean) is aten.mean else None
    whole = magnitude is not None and arguments_of(mean).get("dim") is None
    if not whole or not isinstance(magnitude, fx.Node) or packet_of(magnitude) is not aten.abs:
        return None
    operand = magnitude.args[0]
    return operand if isinstance(operand, fx.Node) else None
