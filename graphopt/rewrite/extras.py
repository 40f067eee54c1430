"""The extra inputs of a program of a schedule, from what is held."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphopt.schedule import ELAPSED, UPDATES, Schedule


def extra_inputs(
    schedule: Schedule, program: str, held: Mapping[str, Tensor], *, elapsed: float = 1.0, updates: float = 1.0
) -> dict[str, Tensor]:
    """Return the extra keyword inputs of a program.

    Differences of an order that so many fillings do not give yet are zero. Numbers are made on the device of what is
    predicted, so that nothing waits for it.

    Args:
        schedule: what the program belongs to.
        program: its id.
        held: what the slots hold, by name of the tensor.
        elapsed: steps since the slots were filled.
        updates: how often they were filled before.
    """
    predicted = [held[name] for name, slot in schedule.slots.items() if slot.order and name in held]
    device = next((tensor.device for tensor in (*predicted, *held.values())), torch.device("cpu"))
    numbers = {ELAPSED: elapsed, UPDATES: updates}
    slots = {tensor: name for name, slot in schedule.slots.items() for tensor in slot.tensors(name)}
    found: dict[str, Tensor] = {}
    for name in schedule.inputs(program):
        if name in numbers:
            found[name] = torch.full((), numbers[name], dtype=torch.float32, device=device)
        else:
            found[name] = held[name] if name in held else torch.zeros_like(held[slots[name]])
    return found
