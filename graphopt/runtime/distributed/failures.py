"""The end of a run that failed: every process raises the same error, which names the one that began it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from graphopt.errors import DeviceFailureError, GraphoptError, RuntimeMismatchError
from graphopt.runtime.distributed.board import Board
from graphopt.runtime.distributed.channels import LostPeerError

VERDICT = "verdict"
"""Key of the board under which the error of a run stands."""

SETTLE_SECONDS = 0.4
"""How long a process that lost another one waits for word of why."""

_KINDS: Mapping[str, type[GraphoptError]] = {
    kind.__name__: kind for kind in (DeviceFailureError, RuntimeMismatchError, GraphoptError)
}


def failed_key(rank: int) -> str:
    """Key under which a process tells how it failed."""
    return f"failed/{rank}"


def busy_key(rank: int) -> str:
    """Key under which a process tells what it has been doing for long."""
    return f"busy/{rank}"


def tell_failure(board: Board, rank: int, error: Exception) -> None:
    """Leave word of a failure, before the connections of this process are closed."""
    peer = error.peer if isinstance(error, LostPeerError) else None
    kind = type(error).__name__ if type(error).__name__ in _KINDS else DeviceFailureError.__name__
    own = isinstance(error, LostPeerError | RuntimeMismatchError | DeviceFailureError)
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    shown = str(error) if isinstance(error, GraphoptError) else f"{type(error).__name__}: {error}"
    text = f"{shown}{notes}" if own else f"rank {rank} failed: {shown}{notes}"
    board.put(failed_key(rank), json.dumps({"kind": kind, "text": text, "peer": peer}))


def common_error(board: Board, rank: int, error: Exception) -> GraphoptError:
    """Find the error that began it, and agree on it with the others.

    Args:
        board: where the others left word.
        rank: number of this process; it has told its failure.
        error: how this process failed.

    Returns:
        The error to raise; of the same text on every process.
    """
    if isinstance(error, LostPeerError):
        time.sleep(SETTLE_SECONDS)
    hosts = rank == 0 and not board.meeting.hosted
    root = _root(board, rank) or {"kind": DeviceFailureError.__name__, "text": str(error)}
    agreed = json.loads(board.put_once(VERDICT, json.dumps(root)))
    if hosts:
        time.sleep(2 * SETTLE_SECONDS)  # the others still have to read it
    return _KINDS.get(agreed["kind"], DeviceFailureError)(agreed["text"])


def _root(board: Board, rank: int) -> dict[str, Any] | None:
    """Follow who waited for whom to the process that failed by itself, or says nothing any more."""
    at, last = rank, None
    for _ in range(board.meeting.world_size + 1):
        report = _read(board, failed_key(at))
        busy = _read(board, busy_key(at)) if report is None else None
        if report is None and (busy is None or busy["peer"] is None):
            return last if last is None or busy is None else _with_busy(last, at, busy["text"])
        if report is not None and report["peer"] is None:
            return report
        last = report or _waiting(last, at, busy)
        at = last["peer"]
    return last


def _waiting(last: dict[str, Any] | None, rank: int, busy: dict[str, Any] | None) -> dict[str, Any]:
    found = busy or {"text": "", "peer": rank}
    text = f"rank {found['peer']} did not answer in time while rank {rank} {found['text']}"
    return {"kind": DeviceFailureError.__name__, "text": text, "peer": found["peer"], "after": (last or {}).get("text")}


def _with_busy(last: dict[str, Any], rank: int, text: str) -> dict[str, Any]:
    return {**last, "text": f"{last['text']}; rank {rank} still {text}"}


def _read(board: Board, key: str) -> dict[str, Any] | None:
    text = board.get(key)
    found: dict[str, Any] | None = None if text is None else json.loads(text)
    return found
