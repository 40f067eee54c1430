"""A program of which every part computes a share of one axis: tokens, rows or frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphopt.errors import PlanError, PreconditionError
from graphopt.program import Program
from graphopt.rewrite.placing.copies import kept_sites
from graphopt.rewrite.placing.placed import Placed, require_whole
from graphopt.rewrite.sharding.axes import choose, read_axes, seeds
from graphopt.rewrite.sharding.question import DualScope
from graphopt.rewrite.sharding.spreading import Spread, Spreader
from graphopt.rewrite.sharding.workshop import Workshop
from graphopt.stages import Delay, Site
from graphopt.values import refresh_some

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Sharded:
    """A program with an axis computed in parts.

    Attributes:
        placed: the placed graph; the copy of a site is the number of the part.
        axis: text of the axis, which `shard` reads.
        share: multiply-accumulates that are divided among the parts, of all.
        gathered: nodes of the program that read something whole that was spread, with the reason.
    """

    placed: Placed
    axis: str
    share: float
    gathered: tuple[tuple[str, str], ...]


def shard(
    program: Program,
    parts: int,
    *,
    axis: str | None = None,
    devices: Mapping[str, int] | None = None,
    displaced: bool = False,
    scope: DualScope | None = None,
    extrapolate: float = 0.0,
    sampler: int = 0,
) -> Sharded:
    """Compute one axis of a program in parts.

    An operator whose coupling rule says that it goes index by index along the axis computes a part from the same part
    of its operands. Attention reads the keys and values of all parts, windows the rows of their neighbours that they
    reach, group norms the moments of all; whatever else is gathered first. The result is the program's to rounding.

    Args:
        program: the program.
        parts: number of parts, two or more; their sizes differ by at most one index.
        axis: where the axis enters: an input, or another value, and its dimension, such as ``hidden_states:1``; several
            are told apart by commas, and ``sample:2/8`` lets parts end at multiples of 8. None finds it.
        devices: device of each node by name, for all parts (PipeFusion): part m of a layer is computed on the device
            of that layer. None computes part p on device p.
        displaced: let what a part reads of others for an operator of its own be a step old in steady steps; with
            ``devices`` only what comes from later parts. Outputs are gathered of the present step.
        scope: what attention along the axis sees, where not everything.
        extrapolate: b of ``h + b * (h - h')`` for what is a step old.
        sampler: device that has the inputs and gets the outputs.

    Raises:
        PreconditionError: there are fewer than two parts, no such axis, or none along which work can be divided.
        PlanError: a node has no device.

    References:
        Li et al., DistriFusion: Distributed Parallel Inference for High-Resolution Diffusion Models, CVPR 2024, arXiv
        2402.19481. Fang et al., PipeFusion: Displaced Patch Pipeline Parallelism for Inference of Diffusion
        Transformer Models, arXiv 2405.14430; there the last stage runs the sampler patch by patch, here outputs are
        joined first. Tan et al., Video-Infinity: Distributed Long Video Generation, arXiv 2406.16260.
    """
    if parts < 2:
        raise PreconditionError(f"found {parts} parts, wanted two or more; leave the split out for one device")
    spreader = Spreader(program, parts, scope=scope, displaced=displaced)
    _require_devices(spreader, devices)
    axes = choose(spreader) if axis is None else read_axes(axis)
    spread = spreader.spread(seeds(spreader, axes))
    text = ",".join(map(str, axes))
    if not spread.share:
        raise PreconditionError(f"no work is divided along {text}; leave axis= out to have one found")
    shop = Workshop(program, spread.layouts, parts, devices, displaced=displaced, sampler=sampler)
    placed = build(shop, spread, extrapolate)
    return Sharded(placed, text, spread.share, spread.gathered)


def build(shop: Workshop, spread: Spread, extrapolate: float = 0.0) -> Placed:
    """Compute every node of a program as its recipe says.

    Args:
        shop: the empty workshop.
        spread: how the program is spread.
        extrapolate: b of ``h + b * (h - h')`` for what is a step old.
    """
    for node, recipe in spread.recipes.items():
        shop.compute(node, recipe)
    made, sites = shop.finish()
    placed = _with_delays(made, kept_sites(made, sites), shop.late, extrapolate, shop.sampler)
    require_whole(placed)
    return placed


def _require_devices(spreader: Spreader, devices: Mapping[str, int] | None) -> None:
    if devices is None:
        return
    missing = [node.name for node in spreader.nodes if node.op == "call_function" and node not in spreader.free]
    missing = [name for name in missing if name not in devices]
    if missing:
        raise PlanError(f"the node {missing[0]} has no device; give every node of the program one")


def _with_delays(
    program: Program, sites: dict[str, Site], late: Mapping[str, bool], extrapolate: float, sampler: int
) -> Placed:
    """Turn the nodes that stand for delays into delays, and say what they hold."""
    found = []
    for node in program.graph_module.graph.nodes:
        if node.name not in late:
            continue
        node.target = aten.alias.default
        node.kwargs = {}
        refresh_some([node])
        share = extrapolate if late[node.name] else 0.0
        found.append(Delay(node.name, node.args[0].name, sites[node.name].device, 1, share))
    program.graph_module.recompile()
    return Placed(program, sites, tuple(found), sampler)
