"""`graphopt bench`: sizes and measured times of a saved result, before and after."""

import importlib.util
from dataclasses import replace
from typing import Annotated

import typer

from graphopt.cli.options import AsJson, ModelOverride, ResultFolder, Traceback
from graphopt.cli.saved import STEPS, load_saved
from graphopt.cli.screen import Screen
from graphopt.report.benchmark import benchmark
from graphopt.report.tables import benchmark_tables

WITHOUT_ONNX = "ONNX Runtime was not measured: its packages are not installed; pip install 'graphopt[onnx]'"


def bench(
    folder: ResultFolder,
    model: ModelOverride = None,
    repeats: Annotated[int, typer.Option(min=2, help="Timed rounds.")] = 20,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that one operator may use; torch's own choice by default.")
    ] = None,
    no_onnx: Annotated[bool, typer.Option("--no-onnx", help="Measure torch alone.")] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Measure a saved result against its original: parameters, MACs, medians of torch and ONNX Runtime in turns."""
    with Screen(as_json=as_json, with_traceback=traceback, steps=STEPS + 1) as screen:
        result = load_saved(folder, model, screen)
        installed = all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))
        screen.step("measuring in torch" if no_onnx or not installed else "measuring in torch and ONNX Runtime")
        found = benchmark(result, repeats=repeats, threads=threads, onnx=installed and not no_onnx)
        if not installed:
            found = replace(found, notes=(*found.notes, WITHOUT_ONNX))
        screen.show(found.to_dict(), *benchmark_tables(found))
