"""Runs of several processes beside runs of one, in turn: all are started once and play a generation when told."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.runtime.distributed.board import LOOPBACK, host_board

PLAYER = Path(__file__).with_name("player.py")


class Group:
    """The processes of one saved result.

    Args:
        folder: what `Result.save` wrote.
        devices: number of processes.
        sampler: the one that is told what to do.
        inputs: names of the model's inputs, in order.
    """

    def __init__(self, folder: Path, devices: int, sampler: int, inputs: Sequence[str]) -> None:
        self._board = host_board()
        shared = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(devices),
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(self._board.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        self._files = ExitStack()
        folder_of_errors = Path(self._files.enter_context(tempfile.TemporaryDirectory()))
        self._errors = [folder_of_errors / f"{rank}.log" for rank in range(devices)]
        self._processes = [
            subprocess.Popen(
                [sys.executable, str(PLAYER), str(folder), *inputs],
                env={**shared, "RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._files.enter_context(self._errors[rank].open("w")),
                text=True,
            )
            for rank in range(devices)
        ]
        self._driver = self._processes[sampler]

    def begin(self, steps: int) -> None:
        """Let them start a generation."""
        self._say(f"{steps}\n")

    def heard(self) -> dict[str, Any]:
        """Wait for what the driver says next.

        Raises:
            RuntimeError: a process ended before.
        """
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        raise RuntimeError("\n".join(self._error(rank) for rank in range(len(self._processes))))

    def end(self) -> dict[tuple[str, int, int], int]:
        """End them; return the bytes of all generations by value, source and target."""
        self._say("\n")
        edges = self.heard()["edges"]
        for process in self._processes:
            process.wait(timeout=60)
        return {(value, source, target): size for value, source, target, size in edges}

    def kill(self) -> None:
        """End whatever is left."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._files.close()

    def _say(self, line: str) -> None:
        assert self._driver.stdin is not None
        self._driver.stdin.write(line)
        self._driver.stdin.flush()

    def _error(self, rank: int) -> str:
        return f"rank {rank}: {self._errors[rank].read_text()[-2000:]}"


@dataclass
class Record:
    """What a player did.

    Attributes:
        step_seconds: by round, mean time of the steps that count.
        generation_seconds: by round, time of all steps.
        bytes_sent: bytes of a generation by value, source and target.
    """

    step_seconds: list[float] = field(default_factory=list)
    generation_seconds: list[float] = field(default_factory=list)
    bytes_sent: Mapping[tuple[str, int, int], int] = field(default_factory=dict)

    def add(self, seconds: Sequence[float], first: int) -> None:
        """Note a generation whose steps count from one on."""
        self.step_seconds.append(statistics.fmean(seconds[first:]))
        self.generation_seconds.append(sum(seconds))

    @property
    def step(self) -> float:
        """Median time of a step."""
        return statistics.median(self.step_seconds)


@dataclass(frozen=True)
class Player:
    """A saved result in a contest.

    Attributes:
        folder: where it is.
        devices: number of its processes.
        inputs: names of the model's inputs, in order.
        sampler: the one that drives.
        copies: how many of it run at once, each on its own.
    """

    folder: Path
    devices: int
    inputs: tuple[str, ...]
    sampler: int = 0
    copies: int = 1


@contextmanager
def started(players: Mapping[str, Player]) -> Iterator[dict[str, list[Group]]]:
    """Start everyone; end whoever is left."""
    with ExitStack() as stack:
        groups: dict[str, list[Group]] = {}
        for name, player in players.items():
            groups[name] = []
            for _ in range(player.copies):
                group = Group(player.folder, player.devices, player.sampler, player.inputs)
                stack.callback(group.kill)
                groups[name].append(group)
                group.heard()
        yield groups


def compete(
    players: Mapping[str, Player], *, steps: int, first: int, rounds: int, pause: Callable[[], None]
) -> dict[str, Record]:
    """Let all play in turn, another one first in each round.

    Args:
        players: by name.
        steps: steps of a generation.
        first: number of the first step that counts.
        rounds: timed rounds, behind one that is not.
        pause: called once a round while nobody plays.
    """
    records = {name: Record() for name in players}
    with started(players) as groups:
        for number in range(rounds + 1):
            names = list(players)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                seconds = _played(groups[name], steps)
                if number:
                    records[name].add(seconds, first)
            pause()
        for name, own in groups.items():
            sent = [group.end() for group in own]
            records[name].bytes_sent = {key: size // (rounds + 1) for key, size in sent[0].items()}
    return records


def _played(groups: Sequence[Group], steps: int) -> list[float]:
    """Times of the steps; of several at once those of the slowest."""
    for group in groups:
        group.begin(steps)
    return max((group.heard()["step_seconds"] for group in groups), key=sum)
