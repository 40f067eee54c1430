"""Values that do not depend on the sample: computed when what they depend on changes, not at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.program import Program
from graphopt.runtime.state import held_bytes
from graphopt.schedule import FULL, Schedule

Call = Callable[[str, tuple[Any, ...], Mapping[str, Any], Mapping[str, Tensor]], dict[str, Tensor]]
"""Runs a program by id on positional inputs, keyword inputs and slots, and returns what it fills."""


TIMED = "timed"
"""Where what depends on the timestep is kept, whichever programs give it."""


@dataclass
class Kept:
    """What one hoisted program gave, and for which inputs.

    Attributes:
        inputs: the inputs themselves, so that none of their addresses is used again, and their versions.
        tensors: what the program filled.
        table: what it fills at each timestep, where all were told.
    """

    inputs: list[tuple[Any, float]] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    table: dict[float, dict[str, Tensor]] = field(default_factory=dict)

    def fits(self, leaves: Sequence[Any]) -> bool:
        """Whether these are the very inputs and weights, unwritten since."""
        known = zip(leaves, self.inputs, strict=True)
        return all(leaf is one and _version(leaf) == version for leaf, (one, version) in known)


class Hoisted:
    """The hoisted values of one guidance branch.

    Args:
        schedule: names the hoisted programs and the inputs they depend on.
        programs: the programs by id; all take the model's inputs in the same order.
        call: runs a program.
    """

    def __init__(self, schedule: Schedule, programs: Mapping[str, Program], call: Call) -> None:
        self._schedule = schedule
        self._call = call
        self._places = [node.name for node in programs[FULL].graph_module.graph.find_nodes(op="placeholder")]
        self._weights = {name: list(programs[name].parameters.values()) for name in schedule.hoisted}
        self._kept: dict[str, Kept] = {}

    def values(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], step: int, timesteps: Sequence[float] | None
    ) -> dict[str, Tensor]:
        """What all hoisted programs give for these inputs.

        Args:
            args: the model's positional inputs.
            kwargs: its keyword inputs.
            step: number of the step.
            timesteps: all timesteps of the generation where they were told; what depends on the timestep is then
                computed for all of them at once.
        """
        inputs = pytree.tree_flatten((args, dict(kwargs)))
        found: dict[str, Tensor] = {}
        changed = False
        for name in self._named(timed=False):
            kept, fresh = self._kept_for(name, self._fixed([name], inputs[0]), stale=changed)
            changed = changed or fresh
            kept.tensors = kept.tensors or self._filled(name, inputs, found)
            found.update(kept.tensors)
        timed = self._named(timed=True)
        if timed:
            kept, _ = self._kept_for(TIMED, self._fixed(timed, inputs[0]), stale=changed)
            found.update(self._timed(timed, kept, inputs, found, step, timesteps))
        return found

    def _named(self, *, timed: bool) -> list[str]:
        """The programs that depend on the timestep, or those that do not, in the order in which they run."""
        return [name for name, inputs in self._schedule.hoisted.items() if (self._schedule.timestep in inputs) == timed]

    def _fixed(self, names: Sequence[str], leaves: Sequence[Any]) -> list[Any]:
        """What some programs depend on beside the timestep: inputs, and their weights."""
        inputs = dict.fromkeys(item for name in names for item in self._schedule.hoisted[name])
        fixed = [leaves[self._places.index(item)] for item in inputs if item != self._schedule.timestep]
        return [*fixed, *(weight for name in names for weight in self._weights[name])]

    def _kept_for(self, name: str, fixed: Sequence[Any], *, stale: bool) -> tuple[Kept, bool]:
        """What was kept for these very inputs, or a new place for it, and whether it is new."""
        kept = self._kept.get(name)
        if kept is not None and not stale and kept.fits(fixed):
            return kept, False
        self._kept[name] = Kept([(leaf, _version(leaf)) for leaf in fixed])
        return self._kept[name], True

    @property
    def size_bytes(self) -> int:
        """Bytes of what is held; memory that two tensors share counts once."""
        groups = [group for kept in self._kept.values() for group in (kept.tensors, *kept.table.values())]
        return held_bytes(tensor for group in groups for tensor in group.values())

    def _timed(
        self,
        names: Sequence[str],
        kept: Kept,
        inputs: tuple[list[Any], pytree.TreeSpec],
        found: Mapping[str, Tensor],
        step: int,
        timesteps: Sequence[float] | None,
    ) -> dict[str, Tensor]:
        """What the programs that depend on the timestep give, from the table of all timesteps where they were told."""
        leaves, spec = inputs
        place = self._places.index(str(self._schedule.timestep))
        told = timesteps[step] if timesteps is not None and step < len(timesteps) else None
        uncounted = any(math.isnan(version) for _, version in kept.inputs)
        if told is None or uncounted or not isinstance(leaves[place], Tensor) or not _holds(leaves[place], told, kept):
            return self._chain(names, inputs, found)
        if not kept.table:
            for value in dict.fromkeys(timesteps or ()):
                at = [*leaves[:place], torch.full_like(leaves[place], value), *leaves[place + 1 :]]
                kept.table[value] = self._chain(names, (at, spec), found)
        return kept.table[told]

    def _chain(
        self, names: Sequence[str], inputs: tuple[list[Any], pytree.TreeSpec], found: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What several programs give one after another; later ones read what earlier ones gave."""
        given: dict[str, Tensor] = {}
        for name in names:
            given.update(self._filled(name, inputs, {**found, **given}))
        return given

    def _filled(
        self, name: str, inputs: tuple[list[Any], pytree.TreeSpec], found: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        args, kwargs = pytree.tree_unflatten(*inputs)
        return self._call(name, args, kwargs, found)


def _holds(timestep: Tensor, told: float, kept: Kept) -> bool:
    """Whether the model is given the timestep that was told; away from the CPU only the first is looked at."""
    if timestep.device.type != "cpu" and kept.table:
        return True
    return bool((timestep == torch.full_like(timestep, told)).all())


def _version(leaf: Any) -> float:
    """A number that changes when a tensor is written to; NaN, equal to nothing, for one that does not count."""
    if not isinstance(leaf, Tensor):
        return 0
    return math.nan if leaf.is_inference() else leaf._version
