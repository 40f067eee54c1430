"""Saved results: a folder of plan, weights, example inputs and report, and the way back to a running program."""

import glob
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphopt.assembly import Attribute, attach, named_attributes
from graphopt.errors import CaptureError, ExportError, PlanError
from graphopt.example_inputs import ExampleInputs
from graphopt.exporters.atomic import MARKER, atomic_folder, recover
from graphopt.exporters.example_inputs import STRUCTURE, TENSORS, read_inputs, read_whole, write_inputs
from graphopt.exporters.manifest import check_manifest, write_manifest
from graphopt.exporters.report_page import report_page
from graphopt.exporters.stage_files import STAGES, StageFiles, describe_stages
from graphopt.exporters.tensor_file import WEIGHTS, read_tensors, write_tensors
from graphopt.opaque import whole_names
from graphopt.pass_manager.base import PassReport
from graphopt.pass_manager.result import Report, Result
from graphopt.plan import Plan, PlanSource
from graphopt.program import Program
from graphopt.rewrite.replay import replay, replay_programs
from graphopt.tracing import capture
from graphopt.wiring import fingerprint

REPORT = "report.json"
PAGE = "report.html"

_OTHER_PROGRAMS = "programs/"


def save_result(result: Result, path: str | Path) -> None:
    """Write a result into a folder, whole or not at all.

    The folder holds ``plan.json``, ``model.safetensors`` (parameters, buffers and tensor constants by name, tied ones
    once), ``inputs.safetensors`` and ``inputs.json``, ``report.json``, ``report.html``, and ``manifest.json`` with the
    SHA-256 of each; of a partitioned result, ``stages/<device>.json`` with the graphs of each device. The same result
    gives the same bytes.

    Args:
        result: What a pipeline returned.
        path: The folder; absent, empty, or an earlier result, which is replaced in one step.

    Raises:
        ExportError: The result cannot be written, or the folder holds other files. What was there is unchanged.
    """
    plan = _plan_of(result)
    first = result.program if result.program.lineage is None else result.program.lineage.origin
    tensors = _tensors_of(result)
    stages = _stages_of(result, plan, tensors)
    with atomic_folder(path) as folder:
        (folder / MARKER).write_text(plan.to_json() + "\n", encoding="utf-8")
        write_tensors(folder / WEIGHTS, {**tensors, **stages.tensors})
        stages.write(folder)
        write_inputs(folder, first.args, first.kwargs, whole_names(first.nodes()))
        report = json.dumps(_finite(result.report.to_dict()), indent=2, allow_nan=False)
        (folder / REPORT).write_text(report + "\n", encoding="utf-8")
        (folder / PAGE).write_text(report_page(result.report, plan, result.program), encoding="utf-8")
        write_manifest(folder)


def load(path: str | Path, model: nn.Module) -> Result:
    """Build a saved result again from a fresh model: capture it, replay the plan, put the saved weights in.

    Args:
        path: The folder that `save_result` wrote.
        model: A model as it was before the passes; its weights do not matter and are left as they are.

    Returns:
        The result, on the model's device; it shares no tensor with the model.

    Raises:
        PlanError: A file is missing or damaged, the plan was made for another model, or the model is on the meta
            device.
        CaptureError: The model cannot be captured with the saved example inputs.
    """
    if not isinstance(model, nn.Module):
        raise PlanError(f"found {model!r} as the model, wanted an nn.Module: build a fresh one")
    folder = Path(path)
    recover(folder)
    _refuse_pretrained(folder, model)
    check_manifest(folder, (MARKER, WEIGHTS, TENSORS, STRUCTURE, REPORT))
    plan = Plan.from_json((folder / MARKER).read_text(encoding="utf-8"))
    report = _read_report(folder / REPORT)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    if device.type == "meta":
        raise PlanError("the model is on the meta device, where nothing runs; call model.to_empty(device='cpu') first")
    inputs = ExampleInputs(*read_inputs(folder)).map_tensors(lambda tensor: tensor.to(device))
    program = replay(plan, _captured(model, inputs, plan, read_whole(folder)))
    program = _with_tensors(program, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    programs = replay_programs(plan, program)
    return Result(program=program, programs=programs, plan=plan, schedule=plan.schedule, report=report)


def _refuse_pretrained(folder: Path, model: nn.Module) -> None:
    """Refuse a folder that a class wrote with its own `save_pretrained`: nothing has to be replayed there."""
    if (folder / "config.json").is_file() and not (folder / MARKER).exists():
        name = type(model).__name__
        raise PlanError(
            f"{folder} has a config.json and no {MARKER}: it holds a whole model, saved by its class; load it with "
            f"{name}.from_pretrained({str(folder)!r})"
        )


def _captured(model: nn.Module, inputs: ExampleInputs, plan: Plan, whole: Sequence[str]) -> Program:
    """Capture a model with the saved inputs; where that does not go, say that the plan is not for it.

    What was kept whole is again.
    """
    try:
        return capture(model, inputs.args, inputs.kwargs, opaque=[*map(glob.escape, whole)])
    except CaptureError as error:
        name = type(model).__name__
        other = f"another {name}" if name == plan.source.class_name else f"a {plan.source.class_name}"
        raise PlanError(
            f"the plan was made for another model: for {other}, and this {name} cannot be captured with the saved "
            f"inputs ({error}); build the model as it was when the plan was made"
        ) from error


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of a saved result.

    Args:
        path: The folder that `save_result` wrote.

    Returns:
        Parameters, buffers and tensor constants by the user's names, on the CPU; tied names give the same tensor.

    Raises:
        PlanError: A file is missing or damaged.
    """
    folder = Path(path)
    recover(folder)
    check_manifest(folder, (WEIGHTS,))
    return read_tensors(folder / WEIGHTS)


def load_inputs(path: str | Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the example inputs of a saved result.

    Args:
        path: The folder that `save_result` wrote.

    Returns:
        Positional and keyword inputs of the captured model, on the CPU.

    Raises:
        PlanError: A file is missing or damaged.
    """
    folder = Path(path)
    recover(folder)
    check_manifest(folder, (TENSORS, STRUCTURE))
    return read_inputs(folder)


def _plan_of(result: Result) -> Plan:
    if result.plan is not None:
        return result.plan
    if fingerprint(result.program.graph_module) != result.program.source.fingerprint:
        raise ExportError(
            "the program was rewritten and the result has no plan, so nothing could build it again; "
            "export it to ONNX, or save the result of a pipeline whose passes record what they do"
        )
    return Plan(PlanSource.of(result.program))


def _tensors_of(result: Result) -> dict[str, torch.Tensor]:
    """Return the tensors of the program by name; what other programs hold beyond them follows under their ids."""
    tensors = dict(result.program.parameters)
    own = dict(tensors)
    for key, program in sorted(result.programs.items()):
        for name, tensor in program.parameters.items():
            if name not in own or tensor.data_ptr() != own[name].data_ptr() or tensor.shape != own[name].shape:
                tensors[f"{_OTHER_PROGRAMS}{key}/{name}"] = tensor
    return tensors


def _stages_of(result: Result, plan: Plan, tensors: Mapping[str, torch.Tensor]) -> StageFiles:
    return StageFiles() if plan.partition is None else describe_stages(plan.partition, result.stages, tensors)


def _with_tensors(program: Program, tensors: Mapping[str, torch.Tensor], path: Path) -> Program:
    """Put saved tensors in place of a program's own; nothing is written into the old ones."""
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith((_OTHER_PROGRAMS, f"{STAGES}/"))}
    for fault in _mismatches(program.parameters, found):
        raise PlanError(f"{path} does not fit the model: {fault}; build the model as it was when the result was saved")
    memo: dict[int, torch.Tensor] = {}
    for name, attribute in named_attributes(program.graph_module).items():
        old = attribute.value
        if isinstance(old, torch.Tensor):
            attach(program.graph_module, name, Attribute(_like(old, found[name], memo), attribute.persistent))
    return replace(program, borrowed=frozenset())


def _like(old: torch.Tensor, new: torch.Tensor, memo: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the new values as what the old ones were, one object for tied names."""
    if id(new) not in memo:
        moved = new.to(old.device)
        is_parameter = isinstance(old, nn.Parameter)
        memo[id(new)] = nn.Parameter(moved, requires_grad=old.requires_grad) if is_parameter else moved
    return memo[id(new)]


def _mismatches(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, tensor in wanted.items():
        if name not in found:
            yield f"the model has {name!r}, the file does not"
        elif found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            yield (
                f"{name!r} is {found[name].dtype} {list(found[name].shape)} in the file "
                f"and {tensor.dtype} {list(tensor.shape)} in the model"
            )
    for name in found:
        if name not in wanted:
            yield f"the file has {name!r}, the model does not"


def _finite(value: Any) -> Any:
    """Return JSON values with infinities and NaN as text, which strict readers accept."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _read_report(path: Path) -> Report:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["passes"]
        return Report(passes=tuple(_pass_report(entry) for entry in entries))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise PlanError(f"{path} is damaged ({error!r}); copy it again or save the result again") from error


def _pass_report(entry: Mapping[str, Any]) -> PassReport:
    return PassReport(
        name=str(entry["name"]),
        spec=str(entry["spec"]),
        before=_figures(entry["before"]),
        after=_figures(entry["after"]),
        seconds=float(entry["seconds"]),
        frozen=tuple(map(str, entry["frozen"])),
        refused=tuple(map(str, entry["refused"])),
        notes=tuple(map(str, entry["notes"])),
    )


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in entry.items()}


Result.writer = save_result
