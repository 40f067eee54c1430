"""ONNX export: written whole or not at all, and only after ONNX Runtime agreed with torch."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import ExportError
from graphopt.exporters.cached_onnx import export_branches, export_steps
from graphopt.exporters.onnx_check import verify_onnx
from graphopt.exporters.onnx_files import check_file, onnx_destination, write_model
from graphopt.exporters.onnx_model import build_onnx
from graphopt.exporters.onnx_report import OnnxOptions, OnnxReport, batch_notes, batch_sizes, opset_notes
from graphopt.exporters.onnx_stages import export_stages
from graphopt.exporters.runtime import default_tolerance, require_onnx
from graphopt.opaque import whole_names
from graphopt.pass_manager.result import Result
from graphopt.program import Program, require_program
from graphopt.schedule import Schedule
from graphopt.version import __version__

__all__ = ["OnnxReport", "export_onnx"]


def export_onnx(
    subject: Program | Result,
    path: str | Path,
    *,
    opset: int = 20,
    dynamic: bool = True,
    external_data: bool | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    single_file: bool = False,
) -> OnnxReport:
    """Write a program as an ONNX file, after comparing it with torch in ONNX Runtime.

    Inputs, outputs and weights are called as in the user's model, weights that the optimiser has transposed get
    ``.transposed`` behind their name. The file is complete or absent at any moment. External weights lie beside it in
    a file whose name holds a hash of them, so that an old file never meets new weights. In a folder that holds a saved
    result the ONNX files join it: the whole folder, manifest included, is replaced in one step. Of a partitioned result
    every stage gets a file, ``stage.<device>.onnx``, beside ``stages.json``, which tells how they go together.

    Args:
        subject: A program, or what a pipeline returned.
        path: A file ending in ``.onnx``, or a folder, made where it is absent, for a file ``model.onnx``; of a
            partitioned result or one with a schedule, a folder for its files.
        opset: Operator set to write; the report has the one that was written.
        dynamic: Leave the batch free where the program's batch is; it is fixed at the example's otherwise.
        external_data: Put weights into a file of their own; None does it above 1 GiB.
        verify: Compare with torch, at two batch sizes where the batch is dynamic.
        tolerance: Largest error allowed as a fraction of an output's largest magnitude; None chooses by dtype.
        single_file: Write a full and a cached program into one file, in the two branches of an ``If``; the input
            ``use_cache`` chooses.

    Returns:
        What was written and the errors that were measured.

    Raises:
        MissingExtraError: The packages of the extra ``onnx`` are not installed.
        ExportError: The program cannot be converted, the outputs differ, or the files cannot be written. Nothing is
            written then.
    """
    require_onnx()
    program = subject.program if isinstance(subject, Result) else require_program(subject)
    plan = None if isinstance(subject, Program) or subject.plan is None else subject.plan.to_dict()
    _require_exportable(program, opset)
    options = OnnxOptions(
        opset=opset,
        dynamic=dynamic,
        external_data=external_data,
        verify=verify,
        tolerance=default_tolerance(_dtypes(program)) if tolerance is None else tolerance,
        properties=_properties(program, plan),
    )
    if isinstance(subject, Result) and subject.partition is not None:
        if single_file:
            raise ExportError("single_file=True puts the steps of one device into a file, and the result has several")
        return export_stages(subject, subject.partition, path, plan, options)
    if isinstance(subject, Result) and isinstance(subject.schedule, Schedule):
        export = export_branches if single_file else export_steps
        return export(subject.programs, subject.schedule, path, plan, options)
    return _export_program(program, path, plan, options)


def _export_program(
    program: Program, path: str | Path, plan: Mapping[str, Any] | None, options: OnnxOptions
) -> OnnxReport:
    started = time.perf_counter()
    with onnx_destination(path, plan) as (staged, final):
        built = build_onnx(program, options.opset, options.dynamic, options.properties)
        names = write_model(built.model, staged, options.external_data)
        opset = check_file(staged)
        errors, notes = verify_onnx(program, built, staged, options.tolerance) if options.verify else ((), ())
    files = tuple(final.with_name(name) for name in names)
    return OnnxReport(
        path=final,
        files=files,
        size_bytes=sum(file.stat().st_size for file in files),
        opset=opset,
        operators=len(built.model.graph),
        inputs=tuple(port.name for port in built.inputs),
        outputs=tuple(port.name for port in built.outputs),
        dynamic_batch=any(port.batched for port in built.inputs),
        batch_sizes=batch_sizes(errors),
        errors=errors,
        notes=(*batch_notes(program, built, options.dynamic), *built.notes, *notes, *opset_notes(options.opset, opset)),
        seconds=time.perf_counter() - started,
    )


def _require_exportable(program: Program, opset: int) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise ExportError(f"opset {opset} is unknown to the installed onnx, which ends at {newest}; 20 runs widely")
    whole = whole_names(program.nodes())
    if whole:
        raise ExportError(
            f"{whole[0]} is kept whole: the program runs the user's own code there, which no ONNX file holds; capture "
            "a model without it, or save the result for torch with result.save(folder)"
        )
    absent = [name for name, tensor in program.parameters.items() if tensor.device.type == "meta"]
    if absent:
        raise ExportError(f"{absent[0]!r} and {len(absent) - 1} other tensors have no values; load the weights first")


def _dtypes(program: Program) -> set[torch.dtype]:
    """Return the dtypes of all values that a program computes or holds."""
    values = [node.meta.get("val") for node in program.nodes()]
    found = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    return found | {tensor.dtype for tensor in program.parameters.values()}


def _properties(program: Program, plan: Mapping[str, Any] | None) -> dict[str, str]:
    properties = {
        "graphopt.version": __version__,
        "graphopt.source_class": program.source.class_name,
        "graphopt.source_fingerprint": program.source.fingerprint,
    }
    if plan is not None:
        text = json.dumps(plan, sort_keys=True, separators=(",", ":"))
        properties["graphopt.plan_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return properties
