"""What a device runs, from a saved folder or from a result."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, fx

from graphopt.assembly import named_attributes
from graphopt.calling import CALLING, Calling
from graphopt.errors import PlanError
from graphopt.exporters.atomic import MARKER
from graphopt.exporters.manifest import check_manifest
from graphopt.exporters.stage_files import load_device
from graphopt.pass_manager import Result
from graphopt.plan import Plan
from graphopt.runtime.distributed.machine import DeviceProgram
from graphopt.runtime.state import held_bytes
from graphopt.stages import Partition, stage_key


def read_plan(folder: str | Path) -> Plan:
    """Read the plan of a saved folder.

    Raises:
        PlanError: the folder is no saved result, is damaged, or its program is not partitioned.
    """
    folder = Path(folder)
    if not (folder / MARKER).is_file():
        raise PlanError(f"{folder} is no saved result: it has no {MARKER}; make one with graphopt optimize --out")
    check_manifest(folder, (MARKER,))
    plan = Plan.from_json((folder / MARKER).read_text(encoding="utf-8"))
    partition_of(plan, str(folder))
    return plan


def partition_of(plan: Plan | None, name: str) -> Partition:
    """The partition of a plan.

    Raises:
        PlanError: there is none.
    """
    if plan is None or plan.partition is None:
        raise PlanError(f"{name} is not partitioned; run the pass partition{{devices=K}} on the program first")
    return plan.partition


def load_program(folder: str | Path, device: int) -> DeviceProgram:
    """Load what one device runs; of the weights only its own are read.

    Args:
        folder: what `Result.save` wrote.
        device: number of the device. One that the partition does not have gets nothing to run: the handshake then says
            on all of them that there are too many.

    Raises:
        PlanError: a file is missing or damaged, or nothing is partitioned.
    """
    plan = read_plan(folder)
    partition = partition_of(plan, str(folder))
    modules = load_device(folder, device) if device < partition.devices else {}
    return DeviceProgram(partition, device, modules, held(modules.values()), plan.source.fingerprint, plan.schedule)


def program_of(result: Result, device: int) -> DeviceProgram:
    """What one device runs of a result, over the result's own tensors.

    Raises:
        PlanError: nothing is partitioned.
    """
    partition = partition_of(result.plan, "the result")
    stages = result.stages
    modules = {
        (name, segment.id): stages[stage_key(name, segment.id)].graph_module
        for name, phase in partition.phases.items()
        for segment in phase.of_device(device)
    }
    fingerprint = "" if result.plan is None else result.plan.source.fingerprint
    return DeviceProgram(partition, device, modules, held(modules.values()), fingerprint, result.schedule)


def held(modules: Iterable[fx.GraphModule]) -> int:
    """Bytes of the tensors that modules hold; what several share counts once."""
    attributes = [one for module in modules for one in named_attributes(module).values()]
    return held_bytes(one.value for one in attributes if isinstance(one.value, Tensor))


def calling_of(partition: Partition) -> Calling:
    """How the program of a partition is called.

    Raises:
        PlanError: the partition does not say.
    """
    if CALLING not in partition.options:
        raise PlanError("the partition does not say how its program is called; run partition again")
    return Calling.from_dict(partition.options[CALLING])
