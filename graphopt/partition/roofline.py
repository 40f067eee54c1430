"""Costs from a device's peak numbers, without running anything."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import fx

from graphopt.aliasing import bodies
from graphopt.cost import NodeCost, cost
from graphopt.errors import PlanError
from graphopt.partition.costs import CostModel
from graphopt.program import Program
from graphopt.wiring import fingerprint


@dataclass(frozen=True)
class DeviceSpec:
    """Peak numbers of a kind of device.

    Attributes:
        name: name of the kind.
        flops_per_second: additions and multiplications it can do.
        bytes_per_second: bytes it can read and write.
        overhead_seconds: time of starting an operator that does anything.
        memory_bytes: its memory, None where it does not matter.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    overhead_seconds: float = 0.0
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are no peaks.

        Raises:
            PlanError: a peak is not above 0, or the overhead is negative.
        """
        peaks = (self.flops_per_second, self.bytes_per_second, self.memory_bytes or 1.0)
        if not all(peak > 0 for peak in peaks) or not 0 <= self.overhead_seconds < math.inf:
            raise PlanError(f"found {self}, wanted flops, bandwidth and memory above 0 and an overhead of 0 or more")


def load_device_spec(path: str | Path) -> DeviceSpec:
    """Read a JSON file with the fields of `DeviceSpec`.

    Raises:
        PlanError: there is no such file, a field is missing or unknown, or a number is not positive.
    """
    known = {field.name for field in fields(DeviceSpec)}
    try:
        data: dict[str, Any] = json.loads(Path(path).read_text())
        strange = sorted(data.keys() - known)
        numbers = {key: float(value) for key, value in data.items() if key != "name" and value is not None}
        spec = DeviceSpec(str(data["name"]), **{key: numbers[key] for key in numbers.keys() & known})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(
            f"cannot read a device from {str(path)!r}: {type(error).__name__} at {error}; wanted JSON with "
            "name, flops_per_second and bytes_per_second, and if known overhead_seconds and memory_bytes"
        ) from error
    if strange:
        raise PlanError(f"found {strange[0]!r} in {str(path)!r}, wanted only {', '.join(sorted(known))}")
    return spec


def roofline(program: Program, spec: DeviceSpec) -> CostModel:
    """Return for every operator the longer of its arithmetic and its memory traffic at peak, and the overhead.

    Views take no time; an operator with bodies takes what all of them take. Programs on the meta device will do.

    References:
        Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model for Multicore Architectures,
        Communications of the ACM 52(4), 2009.
    """
    callers = dict(_callers(program.graph_module))
    seconds: defaultdict[str, float] = defaultdict(float)
    for share in cost(program).nodes:
        caller = callers.get(share.node.graph, share.node)
        seconds[caller.name] += _seconds(share, spec)
    origin = f"roofline of {spec.flops_per_second:g} FLOP/s and {spec.bytes_per_second:g} B/s"
    return CostModel(
        {spec.name: dict(seconds)}, fingerprint(program.graph_module), torch.__version__, {spec.name: origin}
    )


def _seconds(share: NodeCost, spec: DeviceSpec) -> float:
    moved = share.bytes_read + share.bytes_written
    if not moved and not share.macs:
        return 0.0
    return max(2 * share.macs / spec.flops_per_second, moved / spec.bytes_per_second) + spec.overhead_seconds


def _callers(graph_module: fx.GraphModule) -> Iterator[tuple[fx.Graph, fx.Node]]:
    """Yield the graph of every body, however deep, with the node of the outermost graph that calls it."""
    for node in graph_module.graph.nodes:
        for body, _ in bodies(graph_module, node):
            yield body.graph, node
            yield from ((inner, node) for inner, _ in _callers(body))
