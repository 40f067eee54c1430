"""`graphopt run`: a partitioned result in several processes on this machine."""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from graphopt.cli.options import AsJson, ModelOverride, Traceback
from graphopt.cli.run_check import check_run
from graphopt.cli.run_rank import STEPS_OF_CHECK
from graphopt.cli.screen import Screen
from graphopt.errors import SpecError
from graphopt.runtime.distributed.board import LOOPBACK, TIMEOUT_SECONDS
from graphopt.runtime.distributed.launch import launch
from graphopt.runtime.distributed.saved import partition_of, read_plan
from graphopt.runtime.distributed.worker import Finished

_EXPECTED = ("bit_equal", "error", "bytes", "seconds")


def run(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="What `graphopt optimize --out` or Result.save wrote."),
    ] = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Number of processes; one for each device of the partition.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps; 1, or some after the warm-up where values are late.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run it on one device and in the emulator too, and compare.")
    ] = False,
    links: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure the links between the processes into FILE; needs no folder."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a process waits for another one at most.")
    ] = TIMEOUT_SECONDS,
    host: Annotated[str, typer.Option(help="Address at which the processes meet.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port there; any free one where 0.")] = 0,
    backend: Annotated[str, typer.Option(help="gloo, or nccl for tensors on CUDA devices.")] = "gloo",
    threads: Annotated[int, typer.Option(min=1, help="Threads that one operator may use.")] = 1,
    model: ModelOverride = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Run a partitioned result on its saved example inputs, a process for each device; or measure links."""
    with Screen(as_json=as_json, with_traceback=traceback, steps=1 + STEPS_OF_CHECK * check) as screen:
        common = {"--timeout": timeout, "--backend": backend, "--threads": threads}

        def start(processes: int, *words: str, **options: object) -> None:
            flags = {**common, **{f"--{name}": value for name, value in options.items() if value is not None}}
            told = [str(one) for flag in flags.items() for one in flag]
            command = [sys.executable, "-m", "graphopt.runtime", *words, *told]
            screen.step(f"running in {processes} processes")
            launch(command, processes, host=host, port=port, threads=threads)

        if links is not None:
            start(nproc or 2, links=links.resolve())
            found = json.loads(links.read_text(encoding="utf-8"))
        elif folder is None:
            raise SpecError("found no folder, wanted a saved result to run, or --links FILE to measure links")
        else:
            with tempfile.TemporaryDirectory() as out:
                devices = partition_of(read_plan(folder), str(folder)).devices
                start(nproc or devices, str(folder), steps=steps, out=out)
                finished = Finished.read(Path(out))
            compared = check_run(folder, finished, model, screen, threads) if check else {}
            found = {**compared, **finished.figures.to_dict()}
        if not as_json:
            screen.show(found, _table(found))
    if as_json:
        typer.echo(json.dumps(_ordered(found), allow_nan=False))  # one line, to be picked from the end of a log


def _ordered(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in (*_EXPECTED, *found) if name in found}


def _table(found: dict[str, Any]) -> Table:
    table = Table("what", "how much")
    for name, value in found.items():
        if not isinstance(value, list | dict):
            table.add_row(name.replace("_", " "), _shown(name, value))
    later = found.get("step_seconds", [])[1:]
    if later:
        table.add_row("median of later steps", _shown("seconds", statistics.median(later)))
    for rank, size in enumerate(found.get("parameter_bytes", ())):
        table.add_row(f"parameters of rank {rank}", _shown("bytes", size))
    for value, source, target, size in found.get("edge_bytes", ()):
        table.add_row(f"{value}: {source} -> {target}, all steps", _shown("bytes", size))
    for pair in found.get("pairs", ()):
        speed = f"{pair['latency_seconds'] * 1e6:.0f} us, {pair['bytes_per_second'] / 1e9:.2f} GB/s"
        table.add_row(f"link {pair['source']} -> {pair['target']}", speed)
    return table


def _shown(name: str, value: Any) -> str:
    """A figure in its unit."""
    if name.endswith("seconds"):
        return f"{1e3 * value:.3f} ms"
    return f"{value:,} bytes" if name.endswith("bytes") else str(value)
