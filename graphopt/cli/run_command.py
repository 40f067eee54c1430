"""`graphopt run`: a partitioned result in several processes on this machine."""

import json
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
            launch(command, processes, host=host, port=port, timeout_seconds=timeout, threads=threads)

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
    edges = {f"bytes of {one[0]}: {one[1]} -> {one[2]}": one[3] for one in found.get("edge_bytes", ())}
    shown = {name: value for name, value in found.items() if not isinstance(value, list)}
    ranks = {f"parameter bytes of rank {rank}": size for rank, size in enumerate(found.get("parameter_bytes", ()))}
    for name, value in (shown | ranks | edges).items():
        table.add_row(name, str(value))
    return table
