"""The handshake: before any tensor is sent, every process makes sure that all of them run the same."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.errors import RuntimeMismatchError
from graphopt.partition.sending import route
from graphopt.runtime.distributed.agreeing import told_by_all
from graphopt.runtime.distributed.board import Board
from graphopt.runtime.distributed.machine import DeviceProgram
from graphopt.runtime.distributed.messages import all_edges
from graphopt.version import __version__

PROTOCOL = 1
"""Version of what is sent between processes, and how."""

_FACTS = {
    "protocol": "the protocol",
    "graphopt": "graphopt",
    "torch": "torch",
    "world_size": "the number of processes",
    "devices": "the number of devices of the plan",
    "fingerprint": "the fingerprint of the program",
    "backend": "the backend",
}


def shake_hands(board: Board, program: DeviceProgram) -> None:
    """Tell the others what this process runs, and compare with what they tell.

    Every process reads the same and compares in the same order, so all raise the same error.

    Args:
        board: where they meet.
        program: what this process has.

    Raises:
        RuntimeMismatchError: two processes do not agree, or there are not as many as the partition has devices.
        DeviceFailureError: one did not come in time.
    """
    meeting = board.meeting
    hellos = told_by_all(board, "hello", _hello(board, program))
    for rank, hello in enumerate(hellos[1:], start=1):
        _compare(hellos[0], hello, rank)
    devices = hellos[0]["devices"]
    if meeting.world_size != devices:
        raise RuntimeMismatchError(
            f"found {meeting.world_size} processes, wanted {devices}: one for each device of the partition; start "
            f"{devices} (--nproc {devices}), or run partition{{devices={meeting.world_size}}}"
        )


def torch_version() -> str:
    """Version of torch in this process."""
    return str(torch.__version__)


def _hello(board: Board, program: DeviceProgram) -> dict[str, Any]:
    partition = program.partition
    return {
        "protocol": PROTOCOL,
        "graphopt": __version__,
        "torch": torch_version(),
        "world_size": board.meeting.world_size,
        "backend": board.meeting.backend,
        "devices": partition.devices,
        "fingerprint": program.fingerprint,
        "plan": partition.hash,
        "edges": {"/".join(map(str, route(edge))): str(edge) for edge in all_edges(partition)},
    }


def _compare(wanted: dict[str, Any], found: dict[str, Any], rank: int) -> None:
    for key, name in _FACTS.items():
        if wanted[key] != found[key]:
            raise RuntimeMismatchError(
                f"rank {rank} differs from rank 0 in {name}: found {found[key]}, wanted {wanted[key]}; give all "
                "processes the same installation and the same saved folder"
            )
    if wanted["plan"] == found["plan"]:
        return
    raise RuntimeMismatchError(
        f"rank {rank} has another plan than rank 0 ({found['plan'][:12]} and {wanted['plan'][:12]}): "
        f"{_first_edge(wanted['edges'], found['edges'])}; give all processes the same saved folder"
    )


def _first_edge(wanted: dict[str, str], found: dict[str, str]) -> str:
    for key, edge in wanted.items():
        if key not in found:
            return f"it lacks the edge {edge}"
        if found[key] != edge:
            return f"the edge {found[key]} is {edge} on rank 0"
    strangers = [edge for key, edge in found.items() if key not in wanted]
    return f"it has the edge {strangers[0]}, rank 0 does not" if strangers else "their edges are the same"
