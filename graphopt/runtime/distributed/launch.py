"""Starting the processes of a run on this machine, and ending all of them when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from graphopt.errors import DeviceFailureError, GraphoptError, RuntimeMismatchError
from graphopt.runtime.distributed.board import LOOPBACK, Board, Meeting, host_board
from graphopt.runtime.distributed.failures import VERDICT, failed_key

FIRST_SESSION = "0.0"
"""Session of the first run of processes that were started together."""

GRACE_SECONDS = 3.0
"""How long the others have to end by themselves once one has failed."""

_LOOK_SECONDS = 0.05
_TAIL = 2000


def launch(
    command: Sequence[str],
    processes: int,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    threads: int = 1,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command in several processes, each told its rank as torchrun does, and wait for all of them.

    Each is the head of a process group of its own. Where one fails, the others are ended; none is left behind.

    Args:
        command: program and arguments.
        processes: number of processes.
        host: address at which they meet; the loopback interface by default.
        port: port there; any free one where 0.
        threads: threads that one operator may use, where the environment does not say.
        environment: further variables.

    Raises:
        DeviceFailureError: one of them failed or was killed.
        RuntimeMismatchError: they do not agree on what they run.
    """
    board = host_board(host, port)
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        **(environment or {}),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(board.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    meeting = Meeting(
        rank=processes, world_size=processes, host=host, port=board.port, hosted=True, session=FIRST_SESSION
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as files:
        logs = [Path(folder) / f"{rank}.log" for rank in range(processes)]
        started: list[subprocess.Popen[bytes]] = []
        with _ended(started):
            for rank, log in enumerate(logs):
                output = files.enter_context(log.open("wb"))
                own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                started.append(subprocess.Popen(command, env=own, stdout=output, stderr=output, start_new_session=True))
            failed = _first_failure(started)
        if failed is not None:
            raise _error(Board(meeting, board), started, failed, logs)


def _first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all processes; the rank of the first that fails, after a time in which others may end too."""
    first: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        failed = [rank for rank, process in enumerate(started) if process.poll()]
        if failed and first is None:
            first, deadline = failed[0], time.monotonic() + GRACE_SECONDS
    if first is None:
        first = next((rank for rank, process in enumerate(started) if process.poll()), None)
    return first


@contextmanager
def _ended(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End whatever is still running when the block is left, with all that it started."""
    try:
        yield
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for process in started:
            process.wait()


def _error(board: Board, started: Sequence[subprocess.Popen[bytes]], first: int, logs: Sequence[Path]) -> GraphoptError:
    """What to tell of a run that failed: what the processes agreed on, and which was killed from outside."""
    code = started[first].returncode
    killed = f"rank {first} was killed by {signal.Signals(-code).name}" if code < 0 else ""
    found = board.get(VERDICT)
    if found is None:
        tail = logs[first].read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        text = killed or f"rank {first} ended with exit code {code}"
        return DeviceFailureError(f"{text}; it said: {tail}" if tail else text)
    verdict = json.loads(found)
    if verdict["kind"] == RuntimeMismatchError.__name__:
        return RuntimeMismatchError(verdict["text"])
    own_word = board.get(failed_key(first)) is not None
    return DeviceFailureError(verdict["text"] if own_word or not killed else f"{killed}: {verdict['text']}")
