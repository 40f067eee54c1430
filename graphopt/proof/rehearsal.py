"""A partition's segments run one after the other in one process, with what they hand to each other and keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graphopt.rewrite.placing.segments import Cutting
from graphopt.stages import Delay, Partition
from graphopt.wire import extrapolated, handed


class Rehearsal:
    """Runs the segments of all devices in turn; each device sees its own values and what the edges bring.

    Args:
        partition: the partition.
        cutting: its segments.
    """

    def __init__(self, partition: Partition, cutting: Cutting) -> None:
        self._partition = partition
        self._cutting = cutting
        self._kept: dict[tuple[str, int], list[Tensor]] = {}

    def run(self, phase: str, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Compute one step.

        Args:
            phase: name of the phase.
            inputs: inputs of the model by the names of their placeholders.

        Returns:
            What the sampler gets.
        """
        plan, sampler = self._partition.phases[phase], self._partition.sampler
        known: dict[tuple[str, int], Any] = {(name, sampler): value for name, value in inputs.items()}
        late = self._partition.late(phase)
        kept = [one for one in self._partition.delays if one.name in late and (one.value, one.device) in self._kept]
        known.update({(one.name, one.device): self._late(one) for one in kept})
        for edge in plan.edges:
            self._hand(edge.value, edge.source, edge.target, known)
        for segment in plan.segments:
            with torch.no_grad():
                module = self._cutting.modules[phase, segment.id]
                found = module(*(known[name, segment.device] for name in segment.inputs))
            for name, value in zip(segment.outputs, found, strict=True):
                known[name, segment.device] = value
                for edge in plan.edges:
                    if edge.value == name and edge.source == segment.device:
                        self._hand(name, edge.source, edge.target, known)
        computed = {name for segment in plan.segments for name in segment.outputs}
        for value, device in {(one.value, one.device) for one in self._partition.delays if one.value in computed}:
            self._kept.setdefault((value, device), []).append(known[value, device])
        return [known[name, sampler] for name in plan.outputs]

    def _late(self, delay: Delay) -> Tensor:
        kept = self._kept[delay.value, delay.device]
        earlier = kept[-delay.steps - 1] if len(kept) > delay.steps else None
        return extrapolated(kept[-delay.steps], earlier, delay.extrapolate)

    @staticmethod
    def _hand(name: str, source: int, target: int, known: dict[tuple[str, int], Any]) -> None:
        if (name, source) in known:
            known[name, target] = handed(known[name, source])
