"""One process of a hand-made run, to which something happens at its third step: `rank_script.py FAULT RANK TIMEOUT`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hand_made import asynchronous
from oracle import inputs, loop
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.runtime.distributed.board import Meeting
from graphopt.runtime.distributed.crew import Crew
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.machine import DeviceProgram


def cut_link() -> None:
    """Take the network away from everybody; the process goes on."""
    os.system("ip link set lo down")


FAULTS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda: os._exit(7),
    "sleep": lambda: time.sleep(60),
    "link": cut_link,
    "none": lambda: None,
}


def main(fault: str, faulty: int, timeout: float) -> int:
    meeting = Meeting.from_environment(timeout)
    partition, modules = asynchronous()
    own = dict(modules[meeting.rank])
    calls = iter(range(1000))

    def wrapped(module: Callable[..., tuple[Tensor]]) -> Callable[..., tuple[Tensor]]:
        def call(*args: Tensor) -> tuple[Tensor]:
            if next(calls) == 2 and meeting.rank == faulty:
                FAULTS[fault]()
            return module(*args)

        return call

    begun = time.monotonic()
    try:
        program = DeviceProgram(partition, meeting.rank, {key: wrapped(one) for key, one in own.items()})
        crew = Crew(meeting, lambda: program)
        if not crew.drives:
            crew.serve()
            return 0
        with Driver(crew) as driver:
            driver.begin(steps=6)
            found = loop(lambda given: driver.step(given)[0], 6, inputs())
        sys.stdout.write(f"sum {float(sum(one.double().sum() for one in found))!r}\n")
    except GraphoptError as error:
        sys.stdout.write(f"rank {meeting.rank} after {time.monotonic() - begun:.1f} s: {error}\n")
        sys.stdout.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
