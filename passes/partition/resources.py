"""What a partition is planned with: the costs of the program's nodes, the devices and the links between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.errors import SpecError
from graphopt.partition.costs import CostModel, load_costs
from graphopt.partition.devices import Device
from graphopt.partition.links import LinkTable, load_links
from graphopt.partition.measuring import measured
from graphopt.partition.roofline import DeviceSpec, load_device_spec, roofline
from graphopt.program import Program

UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
"""Units of memory, in bytes."""

MEASURED, ROOFLINE = "measured", "roofline"


@dataclass(frozen=True)
class Resources:
    """What a partition is planned with.

    Attributes:
        spec: peak numbers of a device where costs come from them; None where they were measured.
        costs: seconds of every node.
        devices: the devices.
        links: links between them.
    """

    spec: DeviceSpec | None
    costs: CostModel
    devices: tuple[Device, ...]
    links: LinkTable


def gather(
    program: Program,
    devices: int,
    costs: str,
    memory: str | Sequence[str] | None,
    links: str | None,
    speeds: Sequence[float] | None,
) -> Resources:
    """Read or measure what a partition is planned with.

    Args:
        program: the program.
        devices: number of devices.
        costs: ``measured``, ``roofline:`` and a JSON file of peak numbers, or a JSON file of saved costs.
        memory: what each device may hold, such as ``8GB``: one for all or one a device; None for no limit.
        links: JSON file of measured links; None for what is assumed of processes of one machine.
        speeds: how fast each device is, in times of the one that the costs are of; None for equal ones.

    Raises:
        SpecError: a memory cannot be read, or their number is another than that of devices.
        PlanError: a file is missing or damaged, or belongs to another program.
    """
    spec = None
    form, _, path = costs.partition(":")
    if form == ROOFLINE:
        spec = load_device_spec(path)
        model = roofline(program, spec)
    elif costs == MEASURED:
        model = measured(program)
    else:
        model = load_costs(costs, program)
    kind = next(iter(model.seconds))
    caps = _caps(memory, devices, None if spec is None else spec.memory_bytes)
    factors = tuple(speeds or (1.0,) * devices)
    if len(factors) != devices:
        raise SpecError(f"found {len(factors)} speeds for {devices} devices, wanted one a device", option="speeds")
    made = tuple(Device(kind, speed, cap) for speed, cap in zip(factors, caps, strict=True))
    return Resources(spec, model, made, load_links(links))


def read_bytes(text: str) -> int:
    """Read a size in bytes, such as ``8GB``.

    Raises:
        SpecError: it is none.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text)
    if found is None or found[2] not in UNITS or float(found[1]) <= 0:
        raise SpecError(f"found the memory {text!r}, wanted a size such as 8GB, 512MiB or 1000000", option="memory")
    return int(float(found[1]) * UNITS[found[2]])


def _caps(memory: str | Sequence[str] | None, devices: int, known: float | None) -> list[float | None]:
    if memory is None:
        return [known] * devices
    texts = [memory] * devices if isinstance(memory, str) else list(memory)
    if len(texts) != devices:
        raise SpecError(
            f"found {len(texts)} sizes of memory for {devices} devices, wanted one for all or one a device",
            option="memory",
        )
    return [float(read_bytes(text)) for text in texts]
