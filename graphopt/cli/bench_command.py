"""`graphopt bench`: sizes and measured times of a saved result, before and after."""

import importlib.util
from dataclasses import replace
from typing import Annotated

import typer

from graphopt.cli.options import AsJson, ModelOverride, ResultFolder, Traceback
from graphopt.cli.saved import STEPS, load_saved
from graphopt.cli.screen import Screen
from graphopt.errors import SpecError
from graphopt.report.benchmark import benchmark
from graphopt.report.schedule_benchmark import benchmark_schedule
from graphopt.report.schedule_table import schedule_tables
from graphopt.report.tables import benchmark_tables

WITHOUT_ONNX = "ONNX Runtime was not measured: its packages are not installed; pip install 'graphopt[onnx]'"


def bench(
    folder: ResultFolder,
    model: ModelOverride = None,
    repeats: Annotated[int, typer.Option(min=2, help="Timed rounds.")] = 20,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that one operator may use; torch's own choice by default.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of a generation, for a result with a schedule; what it lists, or 20."),
    ] = None,
    no_onnx: Annotated[bool, typer.Option("--no-onnx", help="Measure torch alone.")] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Measure a saved result against its original: parameters, MACs, medians of torch and ONNX Runtime in turns.

    Of a result with a schedule every program is measured, and what a generation takes is added up.
    """
    with Screen(as_json=as_json, with_traceback=traceback, steps=STEPS + 1) as screen:
        result = load_saved(folder, model, screen)
        installed = all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))
        screen.step("measuring in torch" if no_onnx or not installed else "measuring in torch and ONNX Runtime")
        onnx = installed and not no_onnx
        missing = () if installed else (WITHOUT_ONNX,)
        if result.schedule is None:
            if steps is not None:
                raise SpecError(
                    "--steps counts the steps of a generation, and the result has no schedule; leave it out"
                )
            plain = benchmark(result, repeats=repeats, threads=threads, onnx=onnx)
            plain = replace(plain, notes=(*plain.notes, *missing))
            screen.show(plain.to_dict(), *benchmark_tables(plain))
            return
        found = benchmark_schedule(result, steps=steps, repeats=repeats, threads=threads, onnx=onnx)
        found = replace(found, notes=(*found.notes, *missing))
        screen.show(found.to_dict(), *schedule_tables(found))
