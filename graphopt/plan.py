"""Plan: every decision of a pipeline as plain data, in indices of the original model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from graphopt.dependency.graph import DependencyGraph, Member
from graphopt.dependency.placement import Placement
from graphopt.errors import PlanError
from graphopt.plan_source import PlanSource as PlanSource
from graphopt.program import Bypass, Compensate, Fold
from graphopt.schedule import Schedule
from graphopt.stages import Partition
from graphopt.version import __version__

PLAN_VERSION = 1


@dataclass(frozen=True)
class AxisMember:
    """One tensor dimension that an axis lies on; ``length`` is the size of that dimension in the original."""

    tensor: str
    dim: int
    length: int
    placement: Placement


@dataclass(frozen=True)
class AxisChoice:
    """What is kept of one axis.

    Attributes:
        kind: kind of the axis.
        size: number of units in the original.
        kept: indices that stay, ascending.
        members: where the axis lies.
        mode: how the removal is realised; ``slice``.
    """

    kind: str
    size: int
    kept: tuple[int, ...]
    members: tuple[AxisMember, ...]
    mode: str = "slice"


@dataclass(frozen=True)
class Plan:
    """Decisions of a pipeline, replayable on a fresh model, on a state dict, or by other tools.

    Attributes:
        source: the model that the plan was made for.
        passes: text of every pass that took part.
        axes: what is kept of each axis, by axis id; axes left out stay whole.
        tied: names that share one tensor, each with the name that the axes use.
        regroup: whether groups of a GroupNorm that straddle a concatenation were allowed to change their members.
        schedule: where the program is cut, the programs that come of it, and which runs at which step; None where
            nothing is cached.
        bypassed: branches and blocks that are left out, before anything else is done.
        partition: which device computes what; None where one computes all.
        compensate: what is done about statistics over sliced axes.
        scales: tensors that are rescaled for that, by first name: factor and shift of ``factor * kept + shift``.
        folded: constants that are written into biases, after what is left out and before axes are sliced.
    """

    source: PlanSource
    passes: tuple[str, ...] = ()
    axes: Mapping[str, AxisChoice] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    regroup: bool = False
    schedule: Schedule | None = None
    bypassed: tuple[Bypass, ...] = ()
    partition: Partition | None = None
    compensate: Compensate = "none"
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    folded: tuple[Fold, ...] = ()

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Kept indices by axis id."""
        return {name: axis.kept for name, axis in self.axes.items()}

    def parameters(self) -> dict[str, dict[int, list[int]]]:
        """Kept flat indices by tensor name and dimension; dimensions that stay whole are left out."""
        removed: dict[tuple[str, int], np.ndarray[Any, np.dtype[np.bool_]]] = {}
        for axis in self.axes.values():
            gone = np.setdiff1d(np.arange(axis.size), np.asarray(axis.kept, dtype=np.int64))
            for member in axis.members:
                mask = removed.setdefault((member.tensor, member.dim), np.zeros(member.length, dtype=np.bool_))
                mask[member.placement.indices()[gone].reshape(-1)] = True
        out: dict[str, dict[int, list[int]]] = {}
        for (tensor, dim), mask in removed.items():
            if mask.any():
                out.setdefault(tensor, {})[dim] = np.flatnonzero(~mask).tolist()
        return out | {alias: out[name] for alias, name in self.tied.items() if name in out}

    def slice_state_dict(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replay on a state dict alone.

        Args:
            state_dict: tensors of the original model by name, or a part of them.

        Raises:
            PlanError: if a tensor is none of the model's, or has not the shape that the plan was made for.
        """
        strangers = [name for name in state_dict if name not in self.source.tensors]
        if strangers:
            raise PlanError(
                f"the plan was made for a {self.source.class_name} without {strangers[0]}"
                f"{f' (and {len(strangers) - 1} more)' if len(strangers) > 1 else ''}; give it that model's own state "
                "dict, without a prefix"
            )
        for name, shape in self.source.tensors.items():
            if name in state_dict and tuple(state_dict[name].shape) != shape:
                raise PlanError(
                    f"{name} is {list(state_dict[name].shape)}, but the plan was made for {list(shape)}; "
                    "replay it on the original model's state dict"
                )
        here = {name: self.new_value(name, tensor) for name, tensor in state_dict.items() if name not in self.left_out}
        return here | self.new_biases(here)

    def new_biases(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the biases that the original model does not have, of those weights that are there."""
        return {
            one.bias: self.kept_part(one.bias, weight.new_tensor(one.values))
            for one in self.folded
            if one.bias not in self.source.tensors
            and (weight := weights.get(f"{one.bias.removesuffix('bias')}weight")) is not None
        }

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Names of the tensors that leave with bypassed branches and blocks."""
        return frozenset(name for one in self.bypassed for name in one.tensors)

    def new_value(self, name: str, tensor: Tensor) -> Tensor:
        """Return what becomes of one tensor of the original model; itself where nothing of it goes.

        Every replay on tensors alone, be it of a state dict or of a checkpoint, asks here.

        Args:
            name: the model's name of it.
            tensor: of the shape that the plan was made for, of any type.
        """
        for one in self.folded:
            if one.bias == name:
                tensor = one.added_to(tensor)
        tensor = self.kept_part(name, tensor)
        factor, shift = self.scales.get(self.tied.get(name, name), (1.0, 0.0))
        return tensor if (factor, shift) == (1.0, 0.0) else tensor * factor + shift

    def kept_part(self, name: str, tensor: Tensor) -> Tensor:
        """Return what is left of one tensor of the original model, not rescaled; the arguments are the same."""
        for dim, indices in self._kept_indices.get(name, {}).items():
            tensor = tensor.index_select(dim, torch.tensor(indices, device=tensor.device))
        return tensor

    def new_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of what `new_value` gives for a tensor of the original model."""
        kept = self._kept_indices.get(name, {})
        return tuple(len(kept.get(dim, range(size))) for dim, size in enumerate(self.source.tensors[name]))

    @cached_property
    def _kept_indices(self) -> dict[str, dict[int, list[int]]]:
        return self.parameters()

    # ----------------------------------------------------------------- JSON

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; its schema is ``plan.schema.json`` in the package."""
        return {
            "version": PLAN_VERSION,
            "graphopt": __version__,
            "torch": torch.__version__,
            "source": {
                "class": self.source.class_name,
                "fingerprint": self.source.fingerprint,
                "tensors": {name: list(shape) for name, shape in self.source.tensors.items()},
                "operators": dict(self.source.operators),
                "unsaved": list(self.source.unsaved),
            },
            "passes": list(self.passes),
            "axes": {name: _axis_to_dict(axis) for name, axis in self.axes.items()},
            "tied": dict(self.tied),
            "regroup": self.regroup,
            "bypassed": [_bypass_to_dict(one) for one in self.bypassed],
            **_schedule_to_dict(self.schedule),
            "stages": None if self.partition is None else self.partition.to_dict(),
            "compensate": self.compensate,
            "scales": {name: list(scale) for name, scale in self.scales.items()},
            "folded": [one.to_dict() for one in self.folded],
        }

    def to_json(self) -> str:
        """The JSON text, the same for the same plan."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """Read the JSON form.

        Raises:
            PlanError: if it is no plan, or one of another version.
        """
        if not isinstance(data, dict):
            raise PlanError(f"a plan is a JSON object, not {type(data).__name__}")
        if data.get("version") != PLAN_VERSION:
            raise PlanError(f"plan version {data.get('version')!r} cannot be read, this release reads {PLAN_VERSION}")
        try:
            return cls._read(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"the plan is damaged: {type(error).__name__} at {error}; write it again") from error

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Plan:
        source = data["source"]
        return cls(
            PlanSource(
                str(source["class"]),
                str(source["fingerprint"]),
                {name: tuple(int(size) for size in shape) for name, shape in source["tensors"].items()},
                {name: int(count) for name, count in source["operators"].items()},
                tuple(map(str, source.get("unsaved", ()))),
            ),
            tuple(str(text) for text in data["passes"]),
            {name: _axis_from_dict(name, axis) for name, axis in data["axes"].items()},
            {str(alias): str(name) for alias, name in data["tied"].items()},
            bool(data["regroup"]),
            _schedule_from_dict(data),
            tuple(map(_bypass_from_dict, data["bypassed"])),
            Partition.from_dict(data["stages"]) if data["stages"] else None,
            _compensate(data.get("compensate", "none")),
            {str(name): (float(factor), float(shift)) for name, (factor, shift) in data.get("scales", {}).items()},
            tuple(map(Fold.from_dict, data.get("folded", ()))),
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read the JSON text.

        Raises:
            PlanError: if it is no JSON, or no plan.
        """
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise PlanError(f"the plan is no JSON: {error}") from error


def make_plan(graph: DependencyGraph, kept: Mapping[str, tuple[int, ...]], passes: tuple[str, ...]) -> Plan:
    """The plan that keeps these indices of a program's axes, and leaves out what the program's lineage says.

    Args:
        graph: analysis of the original program, or of what is left of it without its bypassed branches and blocks.
        kept: kept indices by axis id; axes that stay whole are not written down.
        passes: text of the passes that decided so.
    """
    tensors = graph.program.parameters
    axes = {
        group.id: AxisChoice(
            group.kind,
            group.size,
            tuple(int(index) for index in kept[group.id]),
            tuple(_member(member, tensors) for member in group.members),
        )
        for group in graph.groups
        if group.id in kept and len(kept[group.id]) < group.size
    }
    tied = {name: first for name, first in graph.names.items() if name != first}
    lineage = graph.program.lineage
    if lineage is None or lineage.kept:
        return Plan(PlanSource.of(graph.program), passes, axes, tied, graph.regroup)
    source, bypassed = PlanSource.of(lineage.origin), lineage.bypassed
    return Plan(source, passes, axes, tied, graph.regroup, bypassed=bypassed, folded=lineage.folded)


def _member(member: Member, tensors: Mapping[str, Tensor]) -> AxisMember:
    length = int(tensors[member.tensor].shape[member.dim])
    return AxisMember(member.tensor, member.dim, length, member.placement)


def _bypass_to_dict(bypass: Bypass) -> dict[str, Any]:
    replaced = dict(bypass.replaced)
    return {"id": bypass.id, "kind": bypass.kind, "replaced": replaced, "tensors": list(bypass.tensors)}


def _bypass_from_dict(data: Mapping[str, Any]) -> Bypass:
    replaced = {str(output): str(source) for output, source in data["replaced"].items()}
    return Bypass(str(data["id"]), str(data["kind"]), replaced, tuple(map(str, data["tensors"])))


def _compensate(text: str) -> Compensate:
    for known in get_args(Compensate):
        if text == known:
            found: Compensate = known
            return found
    raise PlanError(
        f"the plan compensates by {text!r}, wanted one of {', '.join(get_args(Compensate))}; write it again"
    )


def _schedule_to_dict(schedule: Schedule | None) -> dict[str, Any]:
    """The cuts by slot, and what is done with them at which step."""
    if schedule is None:
        return {"cuts": {}, "schedule": None}
    data = schedule.to_dict()
    return {"cuts": data.pop("slots"), "schedule": data}


def _schedule_from_dict(data: Mapping[str, Any]) -> Schedule | None:
    if data["schedule"] is None:
        return None
    return Schedule.from_dict({**data["schedule"], "slots": data["cuts"]})


def _axis_to_dict(axis: AxisChoice) -> dict[str, Any]:
    return {
        "kind": axis.kind,
        "size": axis.size,
        "kept": list(axis.kept),
        "members": [
            {
                "tensor": member.tensor,
                "dim": member.dim,
                "length": member.length,
                "placement": member.placement.to_list(),
            }
            for member in axis.members
        ],
        "mode": axis.mode,
    }


def _axis_from_dict(name: str, data: Mapping[str, Any]) -> AxisChoice:
    size = int(data["size"])
    kept = tuple(int(index) for index in data["kept"])
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
        raise PlanError(f"axis {name} keeps {list(kept)[:8]}, which is no ascending choice of {size} indices")
    members = tuple(
        AxisMember(
            str(member["tensor"]),
            int(member["dim"]),
            int(member["length"]),
            Placement.from_list(size, member["placement"]),
        )
        for member in data["members"]
    )
    return AxisChoice(str(data["kind"]), size, kept, members, str(data["mode"]))
