"""schedule.json: which ONNX file runs at which step, what goes in and out, and how the model is called."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.errors import PlanError
from graphopt.exporters.manifest import sha256_of
from graphopt.exporters.onnx_call import described
from graphopt.exporters.onnx_steps import StepModel, model_kwargs, own_outputs
from graphopt.schedule import FULL, Schedule
from graphopt.version import __version__

SCHEDULE = "schedule.json"
"""Name of the file in the folder."""

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StepFile:
    """The ONNX file of one program.

    Attributes:
        file: Its name.
        inputs: Names of its inputs, in order.
        outputs: Names of its outputs, in order.
        unread: Inputs that it does not have because the program does not read them.
    """

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OnnxSchedule:
    """What ``schedule.json`` holds.

    Attributes:
        schedule: Slots, programs and policy.
        programs: The file of each program, by id.
        arguments: How the model is called: for every parameter of its signature what `described` gave.
        positional: How many of them may be given by place.
        tensors: Of every input of the model, in order, its name in the files, that of its placeholder in the program,
            its dtype, and its sizes, ``batch`` where they are free.
        returns: Structure of the model's output.
        opset: Operator set of the files.
        origin: Class and fingerprint of the model, hash of the plan, version of graphopt.
    """

    schedule: Schedule
    programs: Mapping[str, StepFile]
    arguments: Mapping[str, Any]
    positional: int
    tensors: tuple[Mapping[str, Any], ...]
    returns: Any
    opset: int
    origin: Mapping[str, str]


def describe_steps(
    schedule: Schedule, steps: Mapping[str, StepModel], opset: int, origin: Mapping[str, str]
) -> OnnxSchedule:
    """Describe the models of a schedule.

    Args:
        schedule: What they were made for.
        steps: The models by id.
        opset: Operator set of their files.
        origin: What they came from.
    """
    full = steps[FULL]
    program = full.program
    kwargs = model_kwargs(program, schedule, FULL)
    leaves = pytree.tree_leaves((program.args, kwargs))
    places = [node.name for node in program.graph_module.graph.find_nodes(op="placeholder")]
    names: list[str | None] = [
        place if isinstance(leaf, torch.Tensor) else None for leaf, place in zip(leaves, places, strict=False)
    ]
    parameters = list(inspect.signature(program.graph_module.forward).parameters)
    values = {**dict(zip(parameters, program.args, strict=False)), **kwargs}
    flat = iter(names)
    given = {port.position: port.name for port in own_outputs(full)}
    returned = iter([given.get(place) for place in range(len(pytree.tree_leaves(full.returned)))])
    return OnnxSchedule(
        schedule=schedule,
        programs={name: _file_of(name, step) for name, step in steps.items()},
        arguments={name: described(value, flat) for name, value in values.items()},
        positional=len(program.args),
        tensors=tuple(_tensors(steps, kwargs)),
        returns=described(full.returned, returned),
        opset=opset,
        origin={"graphopt": __version__, **origin},
    )


def write_schedule(described_steps: OnnxSchedule, folder: Path) -> tuple[str, ...]:
    """Write ``schedule.json``, with sizes and SHA-256 sums of the files that are there.

    Args:
        described_steps: What it says.
        folder: A folder that nobody else reads yet.

    Returns:
        The names of all files, this one included.

    Raises:
        OSError: A file cannot be read or written.
    """
    names = [entry.file for entry in described_steps.programs.values()]
    names += sorted(path.name for path in folder.glob("weights.*.data"))
    files = {name: {"sha256": sha256_of(folder / name), "size_bytes": (folder / name).stat().st_size} for name in names}
    content = {
        "version": _VERSION,
        "origin": dict(described_steps.origin),
        "opset": described_steps.opset,
        "schedule": described_steps.schedule.to_dict(),
        "programs": {name: vars(entry) for name, entry in described_steps.programs.items()},
        "call": {"arguments": described_steps.arguments, "positional": described_steps.positional},
        "inputs": [dict(entry) for entry in described_steps.tensors],
        "returns": described_steps.returns,
        "files": files,
    }
    (folder / SCHEDULE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return (*names, SCHEDULE)


def read_schedule(folder: Path) -> OnnxSchedule:
    """Read ``schedule.json`` and compare the files beside it with what it says of them.

    Args:
        folder: What `export_onnx` wrote.

    Raises:
        PlanError: It is absent or damaged, or a file is missing, cut short or changed; the message names it.
    """
    path = folder / SCHEDULE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            f"{path} cannot be read ({error.strerror}); wanted a folder that export_onnx wrote for a result with a "
            "schedule"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is damaged ({error}); export the result again") from error
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise PlanError(f"{path} is no schedule of version {_VERSION}; export the result with this graphopt")
    try:
        found = _read(content)
        files = dict(content["files"])
        absent = [entry.file for entry in found.programs.values() if entry.file not in files]
        if absent or set(found.programs) != set(found.schedule.programs):
            raise PlanError(f"{path} is damaged: it does not list all its files; export the result again")
        for name, entry in files.items():
            _check_file(folder / name, entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"{path} is damaged ({error!r}); export the result again") from error
    return found


def listed_names(folder: Path) -> frozenset[str]:
    """Names of the files that a folder's ``schedule.json`` lists; none where it is absent or damaged."""
    try:
        content = json.loads((folder / SCHEDULE).read_text(encoding="utf-8"))
        return frozenset(name for name in content["files"] if Path(name).name == name)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return frozenset()


def _read(content: Mapping[str, Any]) -> OnnxSchedule:
    programs = {
        str(name): StepFile(
            file=str(entry["file"]),
            inputs=tuple(entry["inputs"]),
            outputs=tuple(entry["outputs"]),
            unread=tuple(entry["unread"]),
        )
        for name, entry in content["programs"].items()
    }
    return OnnxSchedule(
        schedule=Schedule.from_dict(content["schedule"]),
        programs=programs,
        arguments=dict(content["call"]["arguments"]),
        positional=int(content["call"]["positional"]),
        tensors=tuple(dict(entry) for entry in content["inputs"]),
        returns=content["returns"],
        opset=int(content["opset"]),
        origin=dict(content["origin"]),
    )


def _check_file(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        digest = sha256_of(path)
    except OSError as error:
        raise PlanError(
            f"{path} cannot be read ({error.strerror}); copy it again or export the result again"
        ) from error
    if size != wanted["size_bytes"]:
        raise PlanError(f"{path} has {size} bytes where {wanted['size_bytes']} were written; copy it again")
    if digest != wanted["sha256"]:
        raise PlanError(f"{path} was changed after it was written (its SHA-256 differs); copy or export it again")


def _file_of(name: str, step: StepModel) -> StepFile:
    return StepFile(
        file=f"{name}.onnx",
        inputs=tuple(port.name for port in step.built.inputs),
        outputs=tuple(port.name for port in step.built.outputs),
        unread=step.unread,
    )


def _tensors(steps: Mapping[str, StepModel], kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, placeholder, dtype and sizes of every tensor input of the model."""
    program = steps[FULL].program
    leaves = pytree.tree_leaves((program.args, dict(kwargs)))
    names = {port.position: port.name for step in steps.values() for port in step.built.inputs}
    found = []
    for position, node in enumerate(program.graph_module.graph.find_nodes(op="placeholder")[: len(leaves)]):
        leaf = leaves[position]
        if isinstance(leaf, torch.Tensor):
            sizes = node.meta["val"].shape
            found.append(
                {
                    "name": names.get(position, node.name),
                    "place": node.name,
                    "dtype": str(leaf.dtype).removeprefix("torch."),
                    "shape": ["batch" if isinstance(size, torch.SymInt) else int(size) for size in sizes],
                }
            )
    return found
