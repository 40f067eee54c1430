"""One process of a contest: runs generations of a saved result when it is told to, alone or with others.

The sampler's process reads a number of steps a line from its standard input, and prints the times of each generation as
JSON; an empty line ends it, and all others.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch
from torch import Tensor

from graphopt.example_inputs import ExampleInputs
from graphopt.exporters.weights import load_inputs
from graphopt.runtime.distributed.board import Meeting
from graphopt.runtime.distributed.crew import Crew
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.example_run import play_distributed
from graphopt.runtime.distributed.saved import load_program


def main() -> None:
    """Play until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="what Result.save wrote")
    parser.add_argument("inputs", nargs="*", help="names of the model's inputs, in order")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for another process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    meeting = Meeting.from_environment(options.timeout)
    crew = Crew(meeting, lambda: load_program(options.folder, meeting.rank))
    if not crew.drives:
        crew.serve()
        return
    leaves = ExampleInputs(*load_inputs(options.folder)).leaves()
    given = {name: leaf for name, leaf in zip(options.inputs, leaves, strict=True) if isinstance(leaf, Tensor)}
    with Driver(crew, examples=given) as driver:
        _tell({"ready": True})
        for line in iter(sys.stdin.readline, "\n"):
            played = play_distributed(driver, given, int(line))
            _tell({"step_seconds": played.step_seconds})
    told = [crew.figures_of(rank) for rank in range(meeting.world_size)]
    _tell({"edges": [edge for figures in told for edge in figures["edges"]]})


def _tell(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
