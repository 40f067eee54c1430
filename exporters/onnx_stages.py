"""ONNX export of a partitioned result: a file for each stage, inputs and outputs called like the edges."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.errors import ExportError
from graphopt.exporters.onnx_files import check_file, steps_destination, write_model
from graphopt.exporters.onnx_model import build_onnx
from graphopt.exporters.onnx_names import name_inputs, name_outputs
from graphopt.exporters.onnx_report import OnnxOptions, OnnxReport, batch_sizes, opset_notes
from graphopt.exporters.onnx_stages_check import Errors, verify_stages
from graphopt.exporters.onnx_stages_file import STAGES, StageModel, listed_names, write_stages
from graphopt.exporters.onnx_weights import SharedWeights
from graphopt.exporters.program_file import graph_to_dict
from graphopt.exporters.tensor_file import identity
from graphopt.pass_manager.result import Result
from graphopt.program import Program
from graphopt.stages import SYNC, Partition, Segment, stage_key


def export_stages(
    result: Result, partition: Partition, path: str | Path, plan: Mapping[str, Any] | None, options: OnnxOptions
) -> OnnxReport:
    """Write every stage of a partitioned result as an ONNX file, and ``stages.json``, which tells how they go together.

    A stage is what a device computes without waiting for another one: ``stage.<device>.onnx``, or
    ``stage.<device>.<number>.onnx`` where a device computes several in a step. Steps of another kind have files of
    their own where they differ, with the kind in their names. Inputs and outputs bear the names of the edges. The files
    of one device lie over one file of weights where there are several, so that a device needs nothing of the others.

    Args:
        result: What a pipeline returned.
        partition: Which device computes what.
        path: The folder.
        plan: What it came from; None where it is not known.
        options: What was asked for.

    Raises:
        ExportError: The path is a file, a stage cannot be converted, its outputs differ, or the files cannot be
            written. Nothing is written then.
    """
    started = time.perf_counter()
    _require_folder(path)
    with steps_destination(path, plan, STAGES, listed_names) as (staging, final):
        models = _converted(result.stages, partition, options)
        data = _written(models.values(), staging, options)
        opset = max(check_file(staging / model.file) for model in models.values())
        errors: Errors = {}
        notes: tuple[str, ...] = ()
        if options.verify:
            errors, notes = verify_stages(result, partition, models, staging, options.tolerance)
        write_stages(partition, models, data, opset, options.properties, staging)
    distinct = {model.key: model for model in models.values()}
    parts = {
        key: _report(model, [final / name for name in (model.file, *data[model.file])], opset, errors.get(key, ()))
        for key, model in distinct.items()
    }
    fixed = [
        f"the batch of {part.path.name} is fixed at the example's" for part in parts.values() if not part.dynamic_batch
    ]
    return _joined(
        parts,
        final,
        (*(fixed if options.dynamic else ()), *notes, *opset_notes(options.opset, opset)),
        _call(result.program, partition),
        time.perf_counter() - started,
    )


def _require_folder(path: str | Path) -> None:
    if Path(path).suffix == ".onnx" and not Path(path).is_dir():
        raise ExportError(
            f"{path} is to be one file, and every device of the result has files of its own: name a folder, or export "
            "result.program for the model on one device"
        )


def _converted(stages: Mapping[str, Program], partition: Partition, options: OnnxOptions) -> dict[str, StageModel]:
    """The model of each segment by phase and id; those of synchronous steps first, equal ones once."""
    single = all(
        len(phase.of_device(device)) <= 1 for phase in partition.phases.values() for device in range(partition.devices)
    )
    made: dict[str, StageModel] = {}
    models: dict[str, StageModel] = {}
    for phase, content in sorted(partition.phases.items(), key=lambda item: item[0] != SYNC):
        kind = "" if phase == SYNC else f"{phase}."
        for segment in content.segments:
            key = stage_key(phase, segment.id)
            same = _content(stages[key], segment)
            if same not in made:
                file = f"stage.{kind}{segment.device if single else segment.id}.onnx"
                made[same] = _model(key, file, segment, stages[key], options)
            models[key] = made[same]
    return models


def _content(program: Program, segment: Segment) -> str:
    """What two segments have in common that are the same: device, graph, tensors, names of what goes in and out."""
    tensors = {name: repr(identity(name, tensor)) for name, tensor in program.parameters.items()}
    ports = [segment.device, segment.inputs, segment.outputs]
    return json.dumps([graph_to_dict(program.graph_module), tensors, ports], sort_keys=True)


def _model(key: str, file: str, segment: Segment, program: Program, options: OnnxOptions) -> StageModel:
    try:
        built = build_onnx(program, options.opset, options.dynamic, {**options.properties, "graphopt.segment": key})
    except ExportError as error:
        raise ExportError(f"the stage {key} cannot be exported: {error}") from error
    inputs = [replace(port, name=segment.inputs[port.position]) for port in built.inputs]
    name_inputs(built.model, [port.name for port in inputs])
    names = name_outputs(built.model, [segment.outputs[port.position] for port in built.outputs])
    outputs = [replace(port, name=name) for port, name in zip(built.outputs, names, strict=True)]
    return StageModel(
        key=key,
        file=file,
        segment=segment,
        program=program,
        built=replace(built, inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def _written(models: Iterable[StageModel], folder: Path, options: OnnxOptions) -> dict[str, tuple[str, ...]]:
    """Write the files of every device; give the files of weights of each by its name."""
    devices: dict[int, dict[str, StageModel]] = {}
    for model in models:
        devices.setdefault(model.segment.device, {})[model.file] = model
    data: dict[str, tuple[str, ...]] = {}
    for files in devices.values():
        if len(files) == 1 or options.external_data is False:
            for file, model in files.items():
                data[file] = write_model(model.built.model, folder / file, options.external_data)[1:]
        else:
            data |= _over_one_file(files, folder)
    return data


def _over_one_file(files: Mapping[str, StageModel], folder: Path) -> dict[str, tuple[str, ...]]:
    import onnx_ir

    weights = SharedWeights({name for model in files.values() for name in model.program.parameters})
    for model in files.values():
        weights.add(model.built.model)
    name = weights.write([model.built.model for model in files.values()], folder)
    for file, model in files.items():
        onnx_ir.save(model.built.model, folder / file)
    return dict.fromkeys(files, () if name is None else (name,))


def _report(model: StageModel, paths: list[Path], opset: int, errors: tuple[Any, ...]) -> OnnxReport:
    return OnnxReport(
        path=paths[0],
        files=tuple(paths),
        size_bytes=sum(path.stat().st_size for path in paths),
        opset=opset,
        operators=len(model.built.model.graph),
        inputs=tuple(port.name for port in model.built.inputs),
        outputs=tuple(port.name for port in model.built.outputs),
        dynamic_batch=any(port.batched for port in model.built.inputs),
        batch_sizes=batch_sizes(errors),
        errors=errors,
        notes=model.built.notes,
        seconds=0.0,
    )


def _call(program: Program, partition: Partition) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the model's inputs that stages read, and of its outputs."""
    phase = next(iter(partition.phases.values()))
    read = {name for segment in phase.segments for name in segment.inputs}
    places = program.graph_module.graph.find_nodes(op="placeholder")
    return tuple(node.name for node in places if node.name in read), phase.outputs


def _joined(
    parts: Mapping[str, OnnxReport],
    folder: Path,
    notes: tuple[str, ...],
    call: tuple[tuple[str, ...], tuple[str, ...]],
    seconds: float,
) -> OnnxReport:
    files = (*dict.fromkeys(file for part in parts.values() for file in part.files), folder / STAGES)
    errors = tuple(error for part in parts.values() for error in part.errors)
    return OnnxReport(
        path=folder,
        files=files,
        size_bytes=sum(file.stat().st_size for file in files),
        opset=max(part.opset for part in parts.values()),
        operators=sum(part.operators for part in parts.values()),
        inputs=call[0],
        outputs=call[1],
        dynamic_batch=all(part.dynamic_batch for part in parts.values()),
        batch_sizes=batch_sizes(errors),
        errors=errors,
        notes=(*dict.fromkeys(note for part in parts.values() for note in part.notes), *notes),
        seconds=seconds,
        programs={key: replace(part, seconds=seconds) for key, part in parts.items()},
    )
