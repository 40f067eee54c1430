"""Delays on the edges between devices: steady steps read what another device gave a step earlier."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import fx

from graphopt.copying import copy_graph
from graphopt.rewrite.placing.copies import remade
from graphopt.rewrite.placing.placed import Placed, Roles, site_of
from graphopt.stages import Delay, Site
from graphopt.values import value_of

aten = torch.ops.aten


def delay_edges(placed: Placed, *, steps: int = 1, extrapolate: float = 0.0, fresh: Collection[str] = ()) -> Placed:
    """Let every device read what other devices give as it was some steps ago.

    Inputs of the model are always of the present step, and so is what the sampler gets.

    Args:
        placed: a placed graph.
        steps: age of what is read.
        extrapolate: b of ``h + b * (h - h')``; 0 reads the value as it was.
        fresh: names of values that are always of the present step.

    References:
        Chen et al., AsyncDiff: Parallelizing Diffusion Models by Asynchronous Denoising, NeurIPS 2024,
        arXiv 2406.06911. There all outputs of all components are sent to all devices; here each value is sent to the
        devices that read it. Extrapolation is ours.
    """
    program = placed.program
    roles = Roles(program.graph_module)
    duplicate = copy_graph(program.graph_module)
    sites, delays = dict(placed.sites), list(placed.delays)
    for node in roles.values:
        if node.op == "placeholder" or node.name in fresh:
            continue
        for device in _readers(placed, roles, node):
            name = f"{node.name}_late_{device}"
            late = _insert(
                duplicate.nodes[node],
                name,
                [duplicate.nodes[user] for user in node.users if _device(placed, roles, user) == device],
            )
            sites[late.name] = Site(device)
            delays.append(Delay(late.name, node.name, device, steps, extrapolate))
    made = remade(duplicate.assemble(), program)
    return replace(placed, program=made, sites=sites, delays=tuple(delays))


def _readers(placed: Placed, roles: Roles, node: fx.Node) -> list[int]:
    """Other devices that read a value, beside the sampler's outputs."""
    here = site_of(placed, node).device
    devices = {_device(placed, roles, user) for user in node.users}
    return sorted(device for device in devices if device is not None and device != here)


def _device(placed: Placed, roles: Roles, user: fx.Node) -> int | None:
    """The device on which a node reads its operands; None for sizes and the output."""
    return None if user in roles.free or user.op == "output" else site_of(placed, user).device


def _insert(node: fx.Node, name: str, readers: list[fx.Node]) -> fx.Node:
    with node.graph.inserting_after(node):
        late = node.graph.call_function(aten.alias.default, (node,))
    late._rename(name)
    late.meta["val"] = value_of(node)
    for reader in readers:
        reader.replace_input_with(node, late)
    return late
