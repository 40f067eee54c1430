"""Cutting a placed graph into segments: what each device runs, and what it hands to which other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from graphopt.errors import PlanError
from graphopt.rewrite.placing.groups import Phased, groups_of
from graphopt.rewrite.placing.placed import Placed, require_whole
from graphopt.rewrite.placing.segment_graph import inputs_of, segment_graph
from graphopt.rewrite.placing.sizes import example_shape, symbols_of
from graphopt.stages import Delay, Edge, Phase, Segment, is_steady
from graphopt.values import hint, value_of
from graphopt.wire import stride_order


@dataclass(frozen=True, eq=False)
class Cutting:
    """A placed graph, cut.

    Attributes:
        phases: segments and edges by phase.
        modules: graph of each segment by phase and id: positional tensors in the order of its inputs give a tuple in
            the order of its outputs.
    """

    phases: Mapping[str, Phase]
    modules: Mapping[tuple[str, str], fx.GraphModule]


def cut(stages: Mapping[str, Placed]) -> Cutting:
    """Cut placed graphs into segments.

    Args:
        stages: the placed graph of each phase. In phases whose name ends in ``steady`` delays give values of earlier
            steps. Values of one name are the same in all of them.

    Raises:
        PlanError: a graph cannot be cut where its devices say.
    """
    kept = all_delays(stages)
    phases: dict[str, Phase] = {}
    modules: dict[tuple[str, str], fx.GraphModule] = {}
    for name, placed in stages.items():
        require_whole(placed)
        phased = Phased(placed, steady=is_steady(name), kept=kept)
        phases[name], made = _cut_phase(phased)
        modules.update({(name, id_): module for id_, module in made.items()})
    return Cutting(phases, modules)


def all_delays(stages: Mapping[str, Placed]) -> tuple[Delay, ...]:
    """Return the delays of all phases, each once."""
    found = {(delay.name, delay.device): delay for placed in stages.values() for delay in placed.delays}
    return tuple(found.values())


def _cut_phase(phased: Phased) -> tuple[Phase, dict[str, fx.GraphModule]]:
    segments: list[Segment] = []
    modules: dict[str, fx.GraphModule] = {}
    counts: Counter[int] = Counter()
    groups = groups_of(phased)
    inputs = [inputs_of(phased, group.nodes) for group in groups]
    outward = {node for node, _ in phased.kept}.union(phased.outputs(), *inputs)
    for group, read in zip(groups, inputs, strict=True):
        device = group.site.device
        id_ = f"{device}.{counts[device]}"
        counts[device] += 1
        outputs = [node for node in group.nodes if node in outward]
        modules[id_] = segment_graph(phased, group.nodes, read, outputs)
        segments.append(Segment(id_, device, _names(read), _names(outputs), _names(group.nodes)))
    return Phase(tuple(segments), _edges(phased, segments), _names(phased.outputs())), modules


def _names(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)


def _edges(phased: Phased, segments: list[Segment]) -> tuple[Edge, ...]:
    """The messages of a step, in the order in which their values are there: inputs first."""
    symbols = symbols_of(phased.placed.program)
    nodes = {node.name: node for node in phased.placed.program.graph_module.graph.nodes}
    fresh = {(name, segment.device) for segment in segments for name in segment.inputs}
    fresh |= {(node.name, phased.placed.sampler) for node in phased.outputs()}
    kept: dict[tuple[str, int], int] = {}
    for node, delay in phased.kept:
        key = (node.name, delay.device)
        kept[key] = min(delay.steps, kept.get(key, delay.steps))
    given = [node.name for node in phased.roles.values if node.op == "placeholder" or node in phased.late]
    given += [name for segment in segments for name in segment.outputs]
    edges = []
    for name in given:
        source = phased.device(nodes[name])
        for target in sorted({device for value, device in fresh | set(kept) if value == name} - {source}):
            age = 0 if (name, target) in fresh else kept[name, target]
            edges.append(_edge(nodes[name], source, target, age, _rows(phased, nodes[name], symbols)))
    return tuple(edges)


def _rows(phased: Phased, node: fx.Node, symbols: Mapping[Any, int]) -> Mapping[Any, int]:
    """The symbols of sizes with the numbers that they stand for in a value, which may have a part of the batch."""
    if phased.placed.parts == 1 or node.op == "placeholder":
        return symbols
    part = phased.batch_of(node)
    return {symbol: phased.placed.rows(part, number) for symbol, number in symbols.items()}


def _edge(node: fx.Node, source: int, target: int, delay: int, symbols: Mapping[Any, int]) -> Edge:
    value = value_of(node)
    if not isinstance(value, Tensor):
        raise PlanError(f"{node.name} is no tensor and is read on device {target}; it cannot be sent")
    shape = example_shape(value, symbols)
    return Edge(
        node.name,
        source,
        target,
        shape,
        str(value.dtype).removeprefix("torch."),
        stride_order(tuple(hint(stride) for stride in value.stride())),
        math.prod(shape) * value.element_size(),
        delay,
    )
