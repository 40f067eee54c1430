"""What each device of a partition computes, as files of a saved result, and the way back to modules of one device."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.atomic import MARKER, recover
from graphopt.exporters.graph_arguments import dtype_named
from graphopt.exporters.manifest import check_manifest, check_sizes, listed_files
from graphopt.exporters.program_file import graph_from_dict, graph_to_dict, tensor_specs
from graphopt.exporters.tensor_file import WEIGHTS, identity, read_tensors
from graphopt.program import Program
from graphopt.stages import Partition, Segment, stage_key

STAGES = "stages"
"""Folder of the stage files in a saved result, and how names of tensors begin that only stages have."""

_VERSION = 1
_DAMAGED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


def stage_file(device: int) -> str:
    """Return the name of a device's file in a saved result."""
    return f"{STAGES}/{device}.json"


@dataclass(frozen=True)
class StageFiles:
    """What a partition adds to a saved result.

    Attributes:
        tensors: The tensors that only stages read, by their names in the weights file: ``stages/``, the key of the
            first stage that reads it, the name it has there.
        contents: What each file holds, by its name in the folder.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    contents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the files, but not the tensors.

        Args:
            folder: A folder that nobody else reads yet.

        Raises:
            OSError: A file cannot be written.
        """
        for name, content in self.contents.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")


def describe_stages(
    partition: Partition, stages: Mapping[str, Program], known: Mapping[str, torch.Tensor]
) -> StageFiles:
    """Describe ``stages/<device>.json`` of every device: the graphs of its segments and where their tensors are.

    Args:
        partition: Which segments there are.
        stages: The program of each segment by `stage_key`; it takes the segment's inputs and returns its outputs, in
            their order. Segments that are the same in two phases are written once.
        known: The tensors that are written anyway, by name.

    Raises:
        ExportError: A program is absent or does not fit its segment, or a graph cannot be written.
    """
    names = _Names({identity(name, tensor): name for name, tensor in sorted(known.items(), reverse=True)}, {})
    contents = {
        stage_file(device): {"version": _VERSION, "device": device, **_device(partition, device, stages, names)}
        for device in range(partition.devices)
    }
    return StageFiles(names.added, contents)


def load_device(folder: str | Path, device: int) -> dict[tuple[str, str], fx.GraphModule]:
    """Build what one device computes from a saved result, reading only the tensors of this device.

    Neither the model's code nor the rest of its weights are needed. ``plan.json`` and the device's file are compared
    with their sums, the weights with their size alone: they are not read as a whole.

    Args:
        folder: The folder that `save_result` wrote.
        device: Number of the device.

    Returns:
        Phase and id of each segment of the device, in the order in which it computes them, to a module in evaluation
        form on the CPU: called with the tensors of the segment's ``inputs`` by place, it returns a tuple of its
        ``outputs``. Segments that are the same in two phases are one module; tensors that several read are one tensor.

    Raises:
        PlanError: The result has no such device, a file is missing or damaged, or an operator is unknown here.
    """
    folder = Path(folder)
    content = _content(folder, device)
    path = folder / stage_file(device)
    try:
        graphs: dict[str, Any] = content["graphs"]
        places = {key: dict(entry["tensors"]) for key, entry in graphs.items()}
        wanted = {place for named in places.values() for place in named.values()}
        tensors = _parameters(graphs, read_tensors(folder / WEIGHTS, wanted))
        modules = {
            key: graph_from_dict(entry["graph"], {name: tensors[place] for name, place in places[key].items()})
            for key, entry in graphs.items()
        }
        return {(str(entry["phase"]), str(entry["segment"])): modules[entry["graph"]] for entry in content["segments"]}
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def device_bytes(folder: str | Path, device: int) -> int:
    """Return the bytes of all tensors that `load_device` reads for a device, without reading them.

    Args:
        folder: The folder that `save_result` wrote.
        device: Number of the device.

    Raises:
        PlanError: The result has no such device, or a file is missing or damaged.
    """
    folder = Path(folder)
    content = _content(folder, device)
    try:
        found = {place: spec for entry in content["graphs"].values() for place, spec in _specs(entry)}
        return sum(dtype_named(spec["dtype"]).itemsize * math.prod(spec["shape"]) for spec in found.values())
    except _DAMAGED as error:
        raise _damaged(folder / stage_file(device), error) from error


@dataclass(frozen=True)
class _Names:
    """Names of tensors in the weights file.

    Attributes:
        by_identity: Every name, by what tied tensors have in common.
        added: Tensors that had no name before.
    """

    by_identity: dict[object, str]
    added: dict[str, torch.Tensor]

    def place(self, key: str, name: str, tensor: torch.Tensor) -> str:
        """Return the name of a tensor that a stage reads, giving it one where it has none."""
        own = f"{STAGES}/{key}/{name}"
        found = self.by_identity.setdefault(identity(own, tensor), own)
        if found == own:
            self.added[own] = tensor
        return found


def _device(partition: Partition, device: int, stages: Mapping[str, Program], names: _Names) -> dict[str, Any]:
    graphs: dict[str, Any] = {}
    keys: dict[str, str] = {}
    segments = []
    for phase, content in partition.phases.items():
        for segment in content.of_device(device):
            key = stage_key(phase, segment.id)
            entry = _graph(key, segment, stages, names)
            first = keys.setdefault(json.dumps(entry, sort_keys=True), key)
            graphs.setdefault(first, entry)
            segments.append({"phase": phase, "segment": segment.id, "graph": first})
    return {"segments": segments, "graphs": graphs}


def _graph(key: str, segment: Segment, stages: Mapping[str, Program], names: _Names) -> dict[str, Any]:
    if key not in stages:
        raise ExportError(f"the result has no program for the segment {key}; run the partition pass again")
    program = stages[key]
    graph = program.graph_module.graph
    inputs = len(graph.find_nodes(op="placeholder"))
    outputs = len(pytree.tree_leaves(graph.output_node().args[0]))
    if (inputs, outputs) != (len(segment.inputs), len(segment.outputs)):
        raise ExportError(
            f"the program of the segment {key} takes {inputs} inputs and returns {outputs} outputs, wanted "
            f"{len(segment.inputs)} and {len(segment.outputs)}; run the partition pass again"
        )
    described, held = graph_to_dict(program.graph_module), program.parameters
    return {
        "graph": described,
        "tensors": {name: names.place(key, name, held[name]) for name in tensor_specs(described)},
    }


def _content(folder: Path, device: int) -> dict[str, Any]:
    recover(folder)
    listed = listed_files(folder)
    if MARKER in listed and stage_file(device) not in listed:
        there = sorted(name for name in listed if name.startswith(f"{STAGES}/"))
        raise PlanError(
            f"{folder} has no stages of a device {device}, it has {', '.join(there) or 'no stages'}; partition the "
            "model for as many devices and save the result again"
        )
    check_manifest(folder, (MARKER, stage_file(device)))
    check_sizes(folder, (WEIGHTS,))
    path = folder / stage_file(device)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
    except (OSError, ValueError, *_DAMAGED) as error:
        raise _damaged(path, error) from error
    if version != _VERSION:
        raise PlanError(f"{path} is of version {version}, wanted {_VERSION}; use the graphopt that saved it")
    return content


def _specs(entry: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name in the weights file and description of every tensor of a graph."""
    for name, spec in tensor_specs(entry["graph"]).items():
        yield entry["tensors"][name], spec


def _parameters(graphs: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with one Parameter for all graphs where one reads a Parameter."""
    found = dict(tensors)
    for entry in graphs.values():
        for place, spec in _specs(entry):
            if spec["kind"] == "parameter" and not isinstance(found[place], nn.Parameter):
                found[place] = nn.Parameter(found[place], requires_grad=bool(spec["requires_grad"]))
    return found


def _damaged(path: Path, error: Exception) -> PlanError:
    return PlanError(f"{path} is damaged ({error!r}); copy it again or save the result again")
