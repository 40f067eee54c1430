"""Most bytes that a device holds at once: parameters, activations, receive buffers, and what it keeps between steps."""

from __future__ import annotations

import math

from torch import Tensor

from graphopt.assembly import named_attributes
from graphopt.cost import integer_shape
from graphopt.liveness import activation_peak
from graphopt.rewrite.placing.segments import Cutting
from graphopt.stages import Partition, Phase, Segment
from graphopt.values import value_of


def parameter_bytes(cutting: Cutting, device: int) -> int:
    """Bytes of the distinct storages of tensors that a device holds."""
    storages: dict[int, int] = {}
    for (_, segment), module in cutting.modules.items():
        if int(segment.partition(".")[0]) != device:
            continue
        for attribute in named_attributes(module).values():
            if isinstance(attribute.value, Tensor):
                storage = attribute.value.untyped_storage()
                storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def working_bytes(partition: Partition, cutting: Cutting, device: int) -> int:
    """Most bytes beside the parameters: a segment's activations, what waits for later ones, buffers, kept values.

    Args:
        partition: the partition, whole but for its forecasts.
        cutting: its segments.
        device: number of the device.
    """
    sizes = {edge.value: edge.size_bytes for phase in partition.phases.values() for edge in phase.edges}
    kept = sum(
        (delay.steps + (delay.extrapolate != 0)) * sizes.get(delay.value, 0)
        for delay in partition.delays
        if delay.device == device
    )
    return kept + max(
        (_phase_bytes(name, phase, cutting, device) for name, phase in partition.phases.items()), default=0
    )


def _phase_bytes(name: str, phase: Phase, cutting: Cutting, device: int) -> int:
    segments = phase.of_device(device)
    buffers = sum(edge.size_bytes for edge in phase.edges if edge.target == device)
    most = 0
    for place, segment in enumerate(segments):
        waiting = _waiting(segments[:place], segments[place:], phase.outputs)
        held = sum(_bytes_of(name, one, value, cutting) for one, value in waiting if value not in segment.inputs)
        most = max(most, activation_peak(cutting.modules[name, segment.id], packed_inputs=True) + held)
    return most + buffers


def _waiting(
    done: tuple[Segment, ...], left: tuple[Segment, ...], outputs: tuple[str, ...]
) -> list[tuple[Segment, str]]:
    """Values of segments that are done which a segment that is left reads, or that are returned."""
    wanted = {value for segment in left for value in segment.inputs} | set(outputs)
    return [(segment, value) for segment in done for value in segment.outputs if value in wanted]


def _bytes_of(phase: str, segment: Segment, value: str, cutting: Cutting) -> int:
    module = cutting.modules[phase, segment.id]
    node = next(node for node in module.graph.nodes if node.name == value)
    tensor = value_of(node)
    return math.prod(integer_shape(tensor)) * tensor.element_size() if isinstance(tensor, Tensor) else 0
