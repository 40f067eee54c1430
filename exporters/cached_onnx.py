"""ONNX export of a result with a schedule: a file for each program over one file of weights, or one file of two."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.errors import ExportError
from graphopt.exporters.onnx_branches import joined, require_branches
from graphopt.exporters.onnx_files import check_file, onnx_destination, steps_destination, write_model
from graphopt.exporters.onnx_report import OnnxOptions, OnnxReport, batch_notes, batch_sizes, opset_notes
from graphopt.exporters.onnx_schedule import SCHEDULE, describe_steps, listed_names, write_schedule
from graphopt.exporters.onnx_steps import StepModel, build_step
from graphopt.exporters.onnx_steps_check import Errors, run_branches, run_folder, verify_steps
from graphopt.exporters.onnx_weights import SharedWeights
from graphopt.exporters.runtime import OutputError
from graphopt.program import Program
from graphopt.schedule import FULL, Schedule

Checked = tuple[Errors, tuple[str, ...]]


def export_steps(
    programs: Mapping[str, Program],
    schedule: Schedule,
    path: str | Path,
    plan: Mapping[str, Any] | None,
    options: OnnxOptions,
) -> OnnxReport:
    """Write the programs of a schedule into a folder, each into a file, over one file of weights.

    Args:
        programs: The programs by id.
        schedule: What they were made for.
        path: The folder.
        plan: What they came from; None where it is not known.
        options: What was asked for.

    Raises:
        ExportError: The path is a file, a program cannot be converted, its outputs differ, or the files cannot be
            written. Nothing is written then.
    """
    import onnx_ir

    started = time.perf_counter()
    _require_folder(path, schedule, options)
    with steps_destination(path, plan, SCHEDULE, listed_names) as (staging, final):
        steps = _converted(programs, schedule, options)
        weights = SharedWeights(programs[FULL].parameters)
        notes = _shared(weights, steps)
        weights.write([step.built.model for step in steps.values()], staging)
        for name, step in steps.items():
            onnx_ir.save(step.built.model, staging / f"{name}.onnx")
        opset = max(check_file(staging / f"{name}.onnx") for name in steps)
        checked: Checked = ({}, ())
        if options.verify:
            checked = verify_steps(schedule, steps, run_folder(steps, staging), options.tolerance)
        names = write_schedule(describe_steps(schedule, steps, opset, options.properties), staging)
    files = {name: final / name for name in names}
    parts = {
        name: _report(step, [files[f"{name}.onnx"]], opset, checked[0].get(name, ()), step.built.notes, started)
        for name, step in steps.items()
    }
    errors = tuple(error for part in parts.values() for error in part.errors)
    notes = (
        *batch_notes(programs[FULL], steps[FULL].built, options.dynamic),
        *dict.fromkeys(note for step in steps.values() for note in step.built.notes),
        *notes,
        *checked[1],
        *opset_notes(options.opset, opset),
    )
    whole = _report(steps[FULL], files.values(), opset, errors, notes, started)
    return replace(whole, path=final, programs=parts)


def export_branches(
    programs: Mapping[str, Program],
    schedule: Schedule,
    path: str | Path,
    plan: Mapping[str, Any] | None,
    options: OnnxOptions,
) -> OnnxReport:
    """Write a full and a cached program into one file, as the two branches of an If.

    Args:
        programs: The programs by id.
        schedule: What they were made for; it has these two alone.
        path: A file ending in ``.onnx``, or a folder.
        plan: What they came from; None where it is not known.
        options: What was asked for.

    Raises:
        ExportError: The schedule has other programs, a program cannot be converted, its outputs differ, or the file
            cannot be written. Nothing is written then.
    """
    import onnx_ir

    require_branches(schedule)
    started = time.perf_counter()
    with onnx_destination(path, plan) as (staged, final):
        steps = _converted(programs, schedule, options)
        weights = SharedWeights(programs[FULL].parameters)
        _shared(weights, steps)
        model = joined(schedule, steps)
        model.metadata_props.update(options.properties)
        names = write_model(model, staged, options.external_data)
        opset = check_file(staged)
        checked: Checked = ({}, ())
        if options.verify:
            checked = verify_steps(schedule, steps, run_branches(staged), options.tolerance)
    full = steps[FULL]
    errors = tuple(error for found in checked[0].values() for error in found)
    notes = (
        *batch_notes(programs[FULL], full.built, options.dynamic),
        *dict.fromkeys(note for step in steps.values() for note in step.built.notes),
        *checked[1],
        *opset_notes(options.opset, opset),
    )
    report = _report(full, [final.with_name(name) for name in names], opset, errors, notes, started)
    return replace(
        report,
        operators=sum(1 for _ in onnx_ir.traversal.RecursiveGraphIterator(model.graph)),
        inputs=tuple(str(value.name) for value in model.graph.inputs),
        outputs=tuple(str(value.name) for value in model.graph.outputs),
    )


def _require_folder(path: str | Path, schedule: Schedule, options: OnnxOptions) -> None:
    if Path(path).suffix == ".onnx" and not Path(path).is_dir():
        raise ExportError(
            f"{path} is to be one file, and the result has the programs {', '.join(schedule.programs)}, each with a "
            "file of its own: name a folder, or pass single_file=True for a full and a cached program in one file, or "
            "export result.program for the model without its schedule"
        )
    if options.external_data is False:
        raise ExportError(
            "external_data=False puts the weights into every file, and the programs of a schedule share theirs; leave "
            "it out, or pass single_file=True as well"
        )


def _converted(programs: Mapping[str, Program], schedule: Schedule, options: OnnxOptions) -> dict[str, StepModel]:
    return {
        name: build_step(programs[name], schedule, name, options.opset, options.dynamic, options.properties)
        for name in schedule.programs
    }


def _shared(weights: SharedWeights, steps: Mapping[str, StepModel]) -> tuple[str, ...]:
    """Take in the weights of all models, the full one's first; tell which others have more."""
    weights.add(steps[FULL].built.model)
    more = {name: weights.add(step.built.model) for name, step in steps.items() if name != FULL}
    return tuple(f"{name} has {size} bytes of constants that full has not" for name, size in more.items() if size)


def _report(
    step: StepModel,
    files: Iterable[Path],
    opset: int,
    errors: tuple[OutputError, ...],
    notes: tuple[str, ...],
    started: float,
) -> OnnxReport:
    """The report of one file, or of all under the figures of one."""
    paths = tuple(files)
    return OnnxReport(
        path=paths[0],
        files=paths,
        size_bytes=sum(path.stat().st_size for path in paths),
        opset=opset,
        operators=len(step.built.model.graph),
        inputs=tuple(port.name for port in step.built.inputs),
        outputs=tuple(port.name for port in step.built.outputs),
        dynamic_batch=any(port.batched for port in step.built.inputs),
        batch_sizes=batch_sizes(errors),
        errors=errors,
        notes=notes,
        seconds=time.perf_counter() - started,
    )
