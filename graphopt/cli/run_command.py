"""`graphopt run`: a partitioned result in several processes on this machine."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from graphopt.cli.options import AsJson, ModelOverride, ResultFolder, Traceback
from graphopt.cli.run_check import check_run
from graphopt.cli.run_rank import STEPS_OF_CHECK
from graphopt.cli.screen import Screen
from graphopt.runtime.distributed.board import LOOPBACK, TIMEOUT_SECONDS
from graphopt.runtime.distributed.launch import launch
from graphopt.runtime.distributed.saved import partition_of, read_plan
from graphopt.runtime.distributed.worker import Finished

_EXPECTED = ("bit_equal", "error", "bytes", "seconds")


def run(
    folder: ResultFolder,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Number of processes; one for each device of the partition.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps; 1, or some after the warm-up where values are late.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run it on one device and in the emulator too, and compare.")
    ] = False,
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
    """Run a partitioned result on its saved example inputs, a process for each device."""
    with Screen(as_json=as_json, with_traceback=traceback, steps=1 + STEPS_OF_CHECK * check) as screen:
        devices = partition_of(read_plan(folder), str(folder)).devices
        processes = nproc or devices
        screen.step(f"running in {processes} processes")
        with tempfile.TemporaryDirectory() as out:
            options = {"--timeout": timeout, "--backend": backend, "--threads": threads, "--out": out}
            options |= {} if steps is None else {"--steps": steps}
            words = [str(word) for pair in options.items() for word in pair]
            command = [sys.executable, "-m", "graphopt.runtime", str(folder), *words]
            launch(command, processes, host=host, port=port, timeout_seconds=timeout, threads=threads)
            finished = Finished.read(Path(out))
        compared = check_run(folder, finished, model, screen, threads) if check else {}
        found: dict[str, Any] = {**compared, **finished.figures.to_dict()}
        found = {name: found[name] for name in (*_EXPECTED, *found) if name in found}
        if not as_json:
            screen.show(found, *_tables(found))
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))  # one line, so that it can be picked from the end of a log


def _tables(found: dict[str, Any]) -> list[Table]:
    table = Table("what", "how much")
    edges = {f"bytes of {value}: {source} -> {target}": size for value, source, target, size in found["edge_bytes"]}
    shown = {name: value for name, value in found.items() if not isinstance(value, list)}
    ranks = {f"parameter bytes of rank {rank}": size for rank, size in enumerate(found["parameter_bytes"])}
    for name, value in (shown | ranks | edges).items():
        table.add_row(name, str(value))
    return [table]
