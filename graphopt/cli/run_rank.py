"""One process of a run, started by `graphopt run` or torchrun."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from graphopt.cli.run_check import check_run
from graphopt.cli.screen import Screen, error_text
from graphopt.errors import SpecError
from graphopt.runtime.distributed.board import TIMEOUT_SECONDS, Meeting
from graphopt.runtime.distributed.channels import BACKENDS
from graphopt.runtime.distributed.ping_pong import measure_links, write_links
from graphopt.runtime.distributed.worker import Finished, run_rank

STEPS_OF_CHECK = 4
"""How many steps of the screen a check takes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process; the environment tells its rank.

    Args:
        arguments: What follows the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        meeting = Meeting.from_environment(options.timeout, options.backend)
        if options.links is None:
            _run(options, meeting)
        else:
            samples = measure_links(meeting)
            if meeting.rank == 0:
                write_links(options.links, samples)
    except Exception as error:
        sys.stderr.write(error_text(error) + "\n")
        return 1
    return 0


def _run(options: argparse.Namespace, meeting: Meeting) -> None:
    if options.folder is None:
        raise SpecError("found no folder, wanted a saved result to run, or --links FILE to measure links")
    finished = run_rank(options.folder, meeting, options.steps)
    if finished is not None and options.out is not None:
        finished.write(options.out)
    elif finished is not None:
        _report(finished, options)


def _report(finished: Finished, options: argparse.Namespace) -> None:
    found = finished.figures.to_dict()
    if options.check:
        with Screen(as_json=options.json, with_traceback=False, steps=STEPS_OF_CHECK) as screen:
            found = {**check_run(options.folder, finished, options.model, screen, options.threads), **found}
    sys.stdout.write(json.dumps(found) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graphopt.runtime", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="what `graphopt optimize --out` or Result.save wrote")
    parser.add_argument("--steps", type=int, help="number of steps")
    parser.add_argument("--check", action="store_true", help="compare with one device and with the emulator")
    parser.add_argument("--json", action="store_true", help="write nothing but one JSON document; it always does")
    parser.add_argument("--model", help="FILE.py:NAME of the function that builds the model, for --check")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, help="seconds to wait for another process")
    parser.add_argument("--backend", choices=BACKENDS, default="gloo", help="nccl for tensors on CUDA devices")
    parser.add_argument("--threads", type=int, default=1, help="threads that one operator may use")
    parser.add_argument("--links", type=Path, help="measure the links between the processes into this file instead")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser
