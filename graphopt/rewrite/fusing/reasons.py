"""Why nothing was fused where a slot is read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.rewrite.fusing.site import Site

aten = torch.ops.aten
SHOWN = 3
"""How many readers of a value a reason names."""


def reasons(site: Site) -> tuple[str, ...]:
    """Why slots are read by no kernel, and what kernels said that do not take what they would have read.

    What is only renewed is no place for a kernel.
    """
    step = site.schedule.programs[site.name]
    lines: list[str] = []
    for slot in (slot for slot in site.slots() if slot in (*step.reads, *step.measures)):
        said = [refusal.text for refusal in site.refusals.values() if slot in refusal.slots]
        said += [] if said or slot in site.used else [_reason(site, slot)]
        lines += [f"{slot}: {text}" for text in said]
    return tuple(lines)


def _reason(site: Site, slot: str) -> str:
    places = [site.places[name] for name in site.schedule.slots[slot].tensors(slot) if name in site.places]
    reached = list(_reached(site, places))
    found = [site.refusals[node].text for node in reached if node in site.refusals]
    if found:
        return found[-1]
    meetings = [node for node in reached if node not in site.stored]
    sums = [node for node in meetings if packet_of(node) is aten.add]
    if sums:
        return f"{_readers(sums[-1])} {sums[-1].name}, which adds it, wanted a layer_norm or rms_norm"
    if not meetings:
        return "nothing computes with it"
    first = meetings[0]
    wanted = "wanted a residual add, or a concatenation before a group_norm"
    return f"{first.name} ({_operator(first)}) reads it, {wanted}"


def _reached(site: Site, starts: list[fx.Node]) -> Iterator[fx.Node]:
    """Yield what is computed from some values, up to where they meet others, and on through gates and sums."""
    stack, seen = list(starts), set[fx.Node]()
    while stack:
        node = stack.pop(0)
        if node in seen:
            continue
        seen.add(node)
        yield node
        if node in site.stored or packet_of(node) is aten.mul or _is_passing(node):
            stack.extend(node.users)


def _is_passing(node: fx.Node) -> bool:
    """Whether a sum is only read by another sum."""
    readers = list(node.users)
    return packet_of(node) is aten.add and len(readers) == 1 and packet_of(readers[0]) is aten.add


def _readers(node: fx.Node) -> str:
    names = [f"{user.name} ({_operator(user)})" for user in node.users]
    more = f" and {len(names) - SHOWN} others" if len(names) > SHOWN else ""
    verb = "reads" if len(names) == 1 else "read"
    return f"{', '.join(names[:SHOWN])}{more} {verb}"


def _operator(node: fx.Node) -> str:
    return str(packet_of(node) or node.op)
