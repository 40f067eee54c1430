"""Links between processes, measured by sending messages to and fro."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graphopt.partition.links import LinkTable, fit_link
from graphopt.runtime.distributed.board import Board, Meeting
from graphopt.runtime.distributed.channels import Channels
from graphopt.runtime.distributed.failures import common_error, tell_failure

SIZES = (64, 65_536, 1_048_576, 8_388_608)
"""Bytes of the messages of a measurement."""

REPEATS = 20
Sample = tuple[float, float]
"""Bytes of a message, and the seconds that it takes."""


def measure_links(
    meeting: Meeting, sizes: Sequence[int] = SIZES, repeats: int = REPEATS
) -> dict[tuple[int, int], list[Sample]]:
    """Measure the links between all pairs of processes, one pair at a time; called in every one of them.

    Args:
        meeting: where the processes meet.
        sizes: bytes of the messages.
        repeats: how often each is sent; the shortest time counts.

    Returns:
        For each pair of processes, on rank 0, bytes and seconds of a message one way: half of there and back. Nothing
        on other ranks.

    Raises:
        GraphoptError: a process failed.
    """
    board = Board(meeting)
    count = meeting.world_size
    try:
        channels = Channels(
            board.store,
            meeting.rank,
            [(one, other) for one in range(count) for other in range(count) if one != other],
            backend=meeting.backend,
            host=meeting.host,
            port=meeting.port,
            timeout_seconds=meeting.timeout_seconds,
        )
        pairs = [(one, other) for one in range(count) for other in range(one + 1, count)]
        for pair in pairs:
            _take_turn(board, channels, meeting, pair, sizes, repeats)
        return _collected(board, meeting, pairs) if meeting.rank == 0 else {}
    except Exception as error:
        tell_failure(board, meeting.rank, error)
        raise common_error(board, meeting.rank, error) from error


def write_links(path: Path, samples: dict[tuple[int, int], list[Sample]]) -> LinkTable:
    """Fit a link to the samples of each pair, and write the table that `partition{links=...}` reads.

    Args:
        path: the file.
        samples: what `measure_links` gave.
    """
    links = {pair: fit_link(found) for pair, found in samples.items()}
    both = {**links, **{(other, one): link for (one, other), link in links.items()}}
    table = LinkTable(pairs=both)
    path.write_text(json.dumps(table.to_dict(), indent=2) + "\n", encoding="utf-8")
    return table


def _take_turn(
    board: Board, channels: Channels, meeting: Meeting, pair: tuple[int, int], sizes: Sequence[int], repeats: int
) -> None:
    """Let one pair measure; the others wait until it is done, so that nothing else is on the wires."""
    key = f"link/{pair[0]}/{pair[1]}"
    if meeting.rank in pair:
        samples = [(size, _seconds(channels, meeting, pair, size, repeats)) for size in sizes]
        if meeting.rank == pair[0]:
            board.put(key, json.dumps(samples))
    board.wait_for(key, time.monotonic() + meeting.timeout_seconds)


def _seconds(channels: Channels, meeting: Meeting, pair: tuple[int, int], size: int, repeats: int) -> float:
    one, other = pair
    place = torch.device("cpu" if meeting.backend == "gloo" else f"cuda:{torch.cuda.current_device()}")
    buffer = torch.zeros(size, dtype=torch.uint8, device=place)
    ways = [(one, other), (other, one)]
    best = float("inf")
    for number in range(repeats):
        begun = time.perf_counter()
        for way in ways:
            sends = meeting.rank == way[0]
            work = (channels.send if sends else channels.receive)(*way, buffer, 1 + number)
            channels.wait(work, other if meeting.rank == one else one, "measures the link")
        best = min(best, time.perf_counter() - begun)
    return best / 2


def _collected(board: Board, meeting: Meeting, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[Sample]]:
    found = {}
    for one, other in pairs:
        text = board.wait_for(f"link/{one}/{other}", time.monotonic() + meeting.timeout_seconds)
        samples: list[Any] = json.loads(text or "[]")
        found[one, other] = [(float(size), float(seconds)) for size, seconds in samples]
    return found
