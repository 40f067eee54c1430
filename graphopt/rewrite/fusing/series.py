"""Predictions from a stored value and its differences: one kernel for the series, and for the sum it enters."""

from __future__ import annotations

import math

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.rewrite.fusing.site import Site, alike, binary
from graphopt.schedule import ELAPSED

aten = torch.ops.aten
KERNEL = "taylor_add"


def fuse_series(site: Site) -> None:
    """Let one kernel compute what is read of every slot with a predictor."""
    for slot in site.schedule.programs[site.name].reads:
        names = site.schedule.slots[slot].tensors(slot)
        if len(names) == 1 or not site.schedule.slots[slot].lasting:
            continue
        value, *differences = [site.places[name] for name in names]
        total = _total(value, differences, site.places[ELAPSED])
        if total is None:
            site.refuse(value, f"the series of {slot} is read otherwise than as a whole")
            continue
        arguments = (None, value, differences, site.places[ELAPSED])
        if site.takes(KERNEL, arguments, total, noted=value):
            site.replace(total, site.insert(KERNEL, arguments, total))


def fuse_bases(site: Site) -> None:
    """Let a series that only a sum with a fresh value reads be added by its kernel."""
    for node in site.calls(KERNEL):
        base, total = _sum(node)
        if base is None or total is None:
            continue
        arguments = (base, *node.args[1:])
        if not site.depends([base], {node}) and site.takes(KERNEL, arguments, total):
            node.args = arguments
            site.replace(total, node)


def _total(value: fx.Node, differences: list[fx.Node], elapsed: fx.Node) -> fx.Node | None:
    """The sum of a value and of all its differences times their weights, each of which is read once."""
    total = value
    for order, difference in enumerate(differences, start=1):
        terms = [user for user in difference.users if _is_term(user, difference, elapsed, order)]
        if len(terms) != len(difference.users) or len(terms) != 1 or len(total.users) != 1:
            return None
        added = next(iter(total.users))
        pair = binary(added, aten.add)
        if pair != (total, terms[0]) or len(terms[0].users) != 1:
            return None
        total = added
    return total


def _is_term(node: fx.Node, difference: fx.Node, elapsed: fx.Node, order: int) -> bool:
    """Whether a node is a difference times ``elapsed ** order / order!``."""
    pair = binary(node, aten.mul)
    if pair is None or pair[0] is not difference or packet_of(pair[1]) is not aten.div:
        return False
    power, factorial = pair[1].args[:2]
    if not isinstance(power, fx.Node) or packet_of(power) is not aten.pow:
        return False
    return bool(factorial == math.factorial(order)) and power.args == (elapsed, order)


def _sum(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """What a value is added to where nothing else reads it, and the sum; None twice where there is none such."""
    readers = list(node.users)
    pair = binary(readers[0], aten.add) if len(readers) == 1 else None
    if pair is None or pair[0] is pair[1] or not alike(*pair):
        return None, None
    return pair[1] if pair[0] is node else pair[0], readers[0]
