"""What processes that hold the same model make sure of before they share its work."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from graphopt.errors import DeviceFailureError, RuntimeMismatchError
from graphopt.runtime.distributed.board import Board, Meeting
from graphopt.runtime.distributed.channels import local_address
from graphopt.runtime.distributed.failures import VERDICT

SAMPLES = 16
"""Values of each tensor that enter a digest."""

_INTERFACE = "GLOO_SOCKET_IFNAME"


def agree(board: Board, facts: Mapping[str, Any]) -> None:
    """Tell the others what this process has, and compare with what they tell.

    Every process reads the same and compares in the same order, so all raise the same error.

    Args:
        board: where they meet.
        facts: what must be the same, by what messages call it.

    Raises:
        RuntimeMismatchError: two processes do not agree.
        DeviceFailureError: one did not come in time, or failed.
    """
    found = told_by_all(board, "facts", facts)
    for rank, other in enumerate(found[1:], start=1):
        for name, wanted in found[0].items():
            if other.get(name) != wanted:
                raise RuntimeMismatchError(
                    f"rank {rank} differs from rank 0 in {name}: found {other.get(name)}, wanted {wanted}; give all "
                    "processes the same installation, call and model"
                )


def told_by_all(board: Board, topic: str, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tell the others some facts, and return what every process tells, by rank.

    Args:
        board: where they meet.
        topic: name of the facts on the board.
        facts: what this process tells, as values that JSON knows.

    Raises:
        DeviceFailureError: one did not come in time, or failed.
    """
    meeting = board.meeting
    board.put(f"{topic}/{meeting.rank}", json.dumps(facts))
    deadline = time.monotonic() + meeting.timeout_seconds
    told = [board.wait_for(f"{topic}/{rank}", deadline, unless=VERDICT) for rank in range(meeting.world_size)]
    missing = [rank for rank, text in enumerate(told) if text is None]
    if missing:
        raise DeviceFailureError(
            f"rank {', '.join(map(str, missing))} did not come within {meeting.timeout_seconds:g} s; look whether all "
            f"{meeting.world_size} processes were started and reach {meeting.host}:{meeting.port}"
        )
    return [json.loads(text) for text in told if text is not None]


def digest(model: nn.Module) -> str:
    """Hash the names, shapes and types of a model's tensors, and some values of each.

    Models that were built with other seeds or read from other files differ in it; it does not read all weights.
    """
    found = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found.update(f"{name} {[*tensor.shape]} {tensor.dtype} {_some(tensor.detach())}".encode())
    return found.hexdigest()[:16]


def _some(tensor: Tensor) -> list[Any]:
    if tensor.is_meta or not tensor.numel():
        return []
    places = sorted({place * tensor.numel() // SAMPLES for place in range(SAMPLES)})
    flat: list[Any] = [_at(tensor, place).item() for place in places]
    return flat


def _at(tensor: Tensor, place: int) -> Tensor:
    """An element by its number, without a copy of the tensor."""
    for size in reversed(tensor.shape):
        place, last = divmod(place, size)
        tensor = tensor.select(-1, last)
    return tensor


@contextmanager
def on_one_machine(meeting: Meeting) -> Iterator[None]:
    """Keep connections of gloo on the loopback interface where the processes meet there, unless the user says which."""
    here = ipaddress.ip_address(local_address(meeting.host, meeting.port)).is_loopback
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if not here or not names or _INTERFACE in os.environ:
        yield
        return
    os.environ[_INTERFACE] = names[0]
    try:
        yield
    finally:
        del os.environ[_INTERFACE]
