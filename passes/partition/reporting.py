"""Figures and lines about a partition."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.cost import cost
from graphopt.passes.partition.finishing import main_phase
from graphopt.passes.partition.resources import Resources
from graphopt.program import Program
from graphopt.stages import Partition

LISTED = 16
"""Most edges that are listed one by one."""


def figures_before(program: Program, resources: Resources) -> dict[str, float]:
    """Figures of the program on one device."""
    return {
        "predicted_step_seconds": resources.costs.total(next(iter(resources.costs.seconds))),
        "largest_device_parameter_bytes": float(cost(program).parameter_bytes),
        "sent_bytes": 0.0,
    }


def figures_after(partition: Partition) -> dict[str, float]:
    """The same figures of the partition."""
    return {
        "predicted_step_seconds": partition.step_seconds,
        "largest_device_parameter_bytes": float(max(share.parameter_bytes for share in partition.shares)),
        "sent_bytes": float(main_phase(partition).size_bytes),
    }


def lines(partition: Partition) -> Iterator[str]:
    """One line a device, and one an edge of the phase of most steps."""
    yield f"mode {partition.mode} on {partition.devices} devices, certificate: {partition.certificate or 'none'}"
    for device, share in enumerate(partition.shares):
        segments = main_phase(partition).of_device(device)
        nodes = sum(len(segment.nodes) for segment in segments)
        yield (
            f"device {device}: {nodes} operators in {len(segments)} segments, {share.seconds * 1e3:.3g} ms, "
            f"{share.parameter_bytes:,} bytes of parameters, {share.peak_bytes:,} at peak, "
            f"{share.sent_bytes:,} sent a step"
        )
    edges = main_phase(partition).edges
    if len(edges) <= LISTED:
        yield from (f"edge {edge}, {edge.size_bytes:,} bytes a step" for edge in edges)
        return
    for source, target in sorted({(edge.source, edge.target) for edge in edges}):
        sizes = [edge.size_bytes for edge in edges if (edge.source, edge.target) == (source, target)]
        yield f"edges {source} -> {target}: {len(sizes)} of {sum(sizes):,} bytes a step together"
