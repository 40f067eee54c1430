"""From what each device computes to a whole partition: segments, edges, delays, and what is expected of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphopt.calling import CALLING, Calling
from graphopt.errors import BudgetError
from graphopt.partition.simulation import Simulation
from graphopt.partition.simulator import Machinery, simulate
from graphopt.passes.partition.occupancy import parameter_bytes, working_bytes
from graphopt.passes.partition.resources import Resources
from graphopt.program import Program
from graphopt.rewrite.placing.copies import shares_of
from graphopt.rewrite.placing.layouts import placed_stages
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import Cutting, all_delays, cut
from graphopt.schedule import FULL, Schedule
from graphopt.stages import STEADY, SYNC, DeviceShare, Partition, Phase

FORECAST_STEPS = 12
"""Steps after the warm-up that a forecast goes through: enough for the schedules of caches to come round."""


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
    programs: Mapping[str, Program],
    draft: Partition,
    resources: Resources,
    calling: Calling,
    schedule: Schedule | None = None,
) -> Finished:
    """Cut the programs as a draft says, and forecast what each device has to do.

    Args:
        programs: the partitioned program as ``main``, or the programs of a schedule by id.
        draft: a partition without phases.
        resources: costs, devices and links.
        calling: how the partitioned program is called.
        schedule: what the programs do at which step.

    Raises:
        PlanError: the programs cannot be cut so.
    """
    stages = placed_stages(programs, draft, schedule)
    cutting = cut(stages)
    whole = replace(
        draft,
        phases=cutting.phases,
        delays=all_delays(stages),
        options={**draft.options, CALLING: calling.to_dict()},
    )
    seconds = _seconds(whole, stages, resources)
    shares = tuple(_share(whole, cutting, device, resources, seconds) for device in range(whole.devices))
    _require_memory(whole, shares, resources)
    forecast = forecast_generation(whole, seconds, resources, schedule)
    return Finished(replace(whole, shares=shares, step_seconds=forecast.step_seconds), stages, cutting)


def _require_memory(partition: Partition, shares: Sequence[DeviceShare], resources: Resources) -> None:
    """Refuse parts of a batch or an axis that do not fit, whose sizes nothing chooses.

    Raises:
        BudgetError: a device would hold more than it may.
    """
    if partition.assignment and partition.mode != "cfg":
        return  # the planner kept within the memory
    for number, (share, device) in enumerate(zip(shares, resources.devices, strict=True)):
        if device.memory_bytes is not None and share.peak_bytes > device.memory_bytes:
            raise BudgetError(
                f"device {number} would hold {share.peak_bytes:,} bytes with mode={partition.mode}, wanted at most "
                f"{device.memory_bytes:,.0f}; every device holds all parameters of its part: allow more, or use "
                "mode=pipeline, mode=async or more devices",
                float(share.peak_bytes),
            )


def forecast_generation(
    partition: Partition, seconds: Mapping[tuple[str, str], float], resources: Resources, schedule: Schedule | None
) -> Simulation:
    """Simulate some steps of a generation.

    Args:
        partition: the partition.
        seconds: time of every segment by phase and id.
        resources: devices and links.
        schedule: what the programs do at which step.
    """
    steps = partition.warm_up + FORECAST_STEPS

    def phase_of(step: int) -> str:
        return partition.phase_of(step, None if schedule is None else schedule.program_at(step))

    machinery = Machinery(resources.links, tuple(device.speed for device in resources.devices))
    return simulate(partition, seconds, steps, machinery, phase_of=phase_of)


def main_phase(partition: Partition) -> Phase:
    """The phase of most steps."""
    names = (STEADY, f"{FULL}.{STEADY}", SYNC, FULL)
    return next(partition.phases[name] for name in names if name in partition.phases)


def _share(
    partition: Partition,
    cutting: Cutting,
    device: int,
    resources: Resources,
    seconds: Mapping[tuple[str, str], float],
) -> DeviceShare:
    held = parameter_bytes(cutting, device)
    peak = held + working_bytes(partition, cutting, device)
    sent = sum(edge.size_bytes for edge in main_phase(partition).edges if edge.source == device)
    phase = main_phase(partition)
    main = next(name for name, found in partition.phases.items() if found is phase)
    busy = sum(seconds[main, segment.id] for segment in phase.of_device(device)) / resources.devices[device].speed
    return DeviceShare(busy, held, peak, sent)


def _seconds(partition: Partition, stages: Mapping[str, Placed], resources: Resources) -> dict[tuple[str, str], float]:
    """Time of every segment by phase and id, on a device of speed 1; a copy takes its share of the whole node's."""
    table = next(iter(resources.costs.seconds.values()))
    found = {}
    for name, phase in partition.phases.items():
        shares = shares_of(stages[name])
        for segment in phase.segments:
            made = (shares[node] for node in segment.nodes if node in shares)
            found[name, segment.id] = sum(table.get(origin, 0.0) * share for origin, share in made)
    return found
