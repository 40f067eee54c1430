"""From what each device computes to a whole partition: segments, edges, delays, and what is expected of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from graphopt.assembly import named_attributes
from graphopt.liveness import activation_peak
from graphopt.passes.partition.resources import Resources
from graphopt.program import Program
from graphopt.rewrite.placing.layouts import placed_stages
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import Cutting, cut
from graphopt.schedule import FULL, Schedule
from graphopt.stages import STEADY, SYNC, DeviceShare, Partition, Phase


@dataclass(frozen=True, eq=False)
class Finished:
    """A whole partition, and what it was made of.

    Attributes:
        partition: the partition.
        stages: the placed graph of each phase.
        cutting: the segments.
    """

    partition: Partition
    stages: Mapping[str, Placed]
    cutting: Cutting


def finish(
    programs: Mapping[str, Program], draft: Partition, resources: Resources, schedule: Schedule | None = None
) -> Finished:
    """Cut the programs as a draft says, and forecast what each device has to do.

    Args:
        programs: the partitioned program as ``main``, or the programs of a schedule by id.
        draft: a partition without phases.
        resources: costs, devices and links.
        schedule: what the programs do at which step.

    Raises:
        PlanError: the programs cannot be cut so.
    """
    stages = placed_stages(programs, draft, schedule)
    cutting = cut(stages)
    delays = {(delay.name, delay.device): delay for placed in stages.values() for delay in placed.delays}
    whole = replace(draft, phases=cutting.phases, delays=tuple(delays.values()))
    seconds = _seconds(whole, resources)
    shares = tuple(_share(whole, cutting, device, seconds[device]) for device in range(whole.devices))
    return Finished(replace(whole, shares=shares, step_seconds=max(seconds)), stages, cutting)


def main_phase(partition: Partition) -> Phase:
    """The phase of most steps."""
    names = (STEADY, f"{FULL}.{STEADY}", SYNC, FULL)
    return next(partition.phases[name] for name in names if name in partition.phases)


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


def _share(partition: Partition, cutting: Cutting, device: int, seconds: float) -> DeviceShare:
    held = parameter_bytes(cutting, device)
    peak = received = sent = 0
    for name, phase in partition.phases.items():
        own = [segment.id for segment in phase.of_device(device)]
        peak = max([peak, *(activation_peak(cutting.modules[name, id_]) for id_ in own)])
        received = max(received, sum(edge.size_bytes for edge in phase.edges if edge.target == device))
    sent = sum(edge.size_bytes for edge in main_phase(partition).edges if edge.source == device)
    return DeviceShare(seconds, held, held + peak + 2 * received, sent)


def _seconds(partition: Partition, resources: Resources) -> list[float]:
    """Time that each device computes in a step of the main phase."""
    seconds = [0.0] * partition.devices
    for segment in main_phase(partition).segments:
        device = resources.devices[segment.device]
        seconds[segment.device] += (
            sum(_node_seconds(partition, resources, name) for name in segment.nodes) / device.speed
        )
    return seconds


def _node_seconds(partition: Partition, resources: Resources, name: str) -> float:
    """Time of a node, or of its copy for a part of the batch or of an axis."""
    table = next(iter(resources.costs.seconds.values()))
    base = name.partition("_part_")[0].partition("_on_")[0]
    parts = max(partition.micro_batches, partition.patches)
    return table.get(name, table.get(base, 0.0)) / parts
