"""`graphopt export`: write a saved result as an ONNX file."""

from pathlib import Path
from typing import Annotated, Any

import typer

import graphopt
from graphopt.cli.options import AsJson, ModelOverride, ResultFolder, Traceback
from graphopt.cli.saved import STEPS, load_saved
from graphopt.cli.screen import Screen
from graphopt.exporters.onnx import OnnxReport
from graphopt.report.figures import short
from graphopt.report.tables import plain_table


def export(
    folder: ResultFolder,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX: the default, and the only format so far.")] = True,
    opset: Annotated[int, typer.Option(help="Operator set of the file.")] = 20,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE.onnx", help="Where to write, a folder where there are several; FOLDER by default."),
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Of a schedule, write full and cached steps into one file.")
    ] = False,
    model: ModelOverride = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the comparison with torch.")] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Write a saved result as an ONNX file, or one for each device, once ONNX Runtime has computed what torch does."""
    with Screen(as_json=as_json, with_traceback=traceback, steps=STEPS + 1) as screen:
        result = load_saved(folder, model, screen)
        screen.step(f"exporting with opset {opset}")
        path = folder if to is None else to
        report = graphopt.export_onnx(result, path, opset=opset, verify=not no_verify, single_file=single_file)
        screen.show(_document(report), plain_table(str(report.path), _rows(report)))


def _document(report: OnnxReport) -> dict[str, Any]:
    return {
        "path": str(report.path),
        "files": [str(file) for file in report.files],
        "size_bytes": report.size_bytes,
        "opset": report.opset,
        "operators": report.operators,
        "inputs": list(report.inputs),
        "outputs": list(report.outputs),
        "dynamic_batch": report.dynamic_batch,
        "batch_sizes": list(report.batch_sizes),
        "errors": [
            {"output": error.name, "batch_size": error.batch_size, "relative": error.relative}
            for error in report.errors
        ],
        "notes": list(report.notes),
        "seconds": report.seconds,
        "programs": {name: {"path": str(part.path), **_ports(part)} for name, part in report.programs.items()},
    }


def _ports(report: OnnxReport) -> dict[str, Any]:
    return {"operators": report.operators, "inputs": list(report.inputs), "outputs": list(report.outputs)}


def _rows(report: OnnxReport) -> list[tuple[str, str]]:
    error = max((error.relative for error in report.errors), default=None)
    sizes = ", ".join(map(str, report.batch_sizes)) or "the example's"
    compared = "not compared" if error is None else f"{error:.2g} relative to torch, at batch sizes {sizes}"
    return [
        ("size", f"{short(report.size_bytes)}B in {len(report.files)} files"),
        ("opset", f"{report.opset}, {report.operators} operators"),
        ("inputs", ", ".join(report.inputs)),
        ("outputs", ", ".join(report.outputs)),
        ("batch", "dynamic" if report.dynamic_batch else "fixed"),
        ("largest error", compared),
        *((part.path.name, f"{part.operators} operators") for part in report.programs.values()),
        *(("note", note) for note in report.notes),
    ]
