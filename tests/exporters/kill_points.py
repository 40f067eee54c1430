"""Save over an old state in a child process that is killed before and after each call to the system, one by one.

Run as a script, `python kill_points.py FOLDER`; prints what the children left by mode, as JSON.
"""

import collections
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from graphopt.exporters import atomic
from graphopt.exporters.manifest import check_manifest, write_manifest
from graphopt.exporters.weights import load_tensors, save_result
from graphopt.pass_manager.result import Report, Result
from graphopt.tracing import capture

CALLS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")
OLD, NEW = "old" * 100, "new" * 200


class Countdown:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            result = function(*args, **kwargs)
            self.tick()
            return result

        return counted


def save_folder(target: Path, text: str) -> None:
    with atomic.atomic_folder(target) as folder:
        for name in ("plan.json", "a.txt", "b.txt"):
            (folder / name).write_text(text)
        write_manifest(folder)


def read_folder(target: Path) -> str:
    atomic.recover(target)
    check_manifest(target)
    texts = {(target / name).read_text() for name in ("plan.json", "a.txt", "b.txt")}
    return texts.pop() if len(texts) == 1 else "mixed"


def save_files(target: Path, text: str) -> None:
    target.mkdir(exist_ok=True)
    with atomic.atomic_files(target, last="head") as folder:
        (folder / "head").write_text(f"data-{text[:3]}")
        (folder / f"data-{text[:3]}").write_text(text)


def read_files(target: Path) -> str:
    return (target / (target / "head").read_text()).read_text()


def save_file(target: Path, text: str) -> None:
    atomic.atomic_file(target, text.encode())


def read_file(target: Path) -> str:
    return target.read_text()


def save_weights(target: Path, text: str) -> None:
    save_result(RESULTS[text], target)


def read_weights(target: Path) -> str:
    weight = load_tensors(target)["weight"]
    check_manifest(target)
    return next((text for text in RESULTS if torch.equal(weight, RESULTS[text].program.parameters["weight"])), "")


def make_result() -> Result:
    program = capture(torch.nn.Linear(4, 4), (torch.randn(2, 4),))
    return Result(program=program, programs={"main": program}, plan=None, report=Report(passes=()))


RESULTS: dict[str, Result] = {}
MODES = {
    "folder": (save_folder, read_folder),
    "two-steps": (save_folder, read_folder),
    "files": (save_files, read_files),
    "file": (save_file, read_file),
    "result": (save_weights, read_weights),
}


def killed(save: Callable[[Path, str], None], target: Path, steps: int) -> bool:
    """Save in a child that dies at a step; False where it came to its end before."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    countdown = Countdown(steps)
    os.fsync = no_sync
    for name in CALLS:
        setattr(os, name, countdown.around(getattr(os, name)))
    atomic._exchange = countdown.around(atomic._exchange)
    save(target, NEW)
    os._exit(0)


def no_sync(descriptor: int) -> None:
    """Stand in for the sync: a killed process loses nothing that the system has, and syncing is slow."""


def outcomes(mode: str, base: Path) -> dict[str, Any]:
    """Return how often the old state and the new one were found, and what was left beside them."""
    save, read = MODES[mode]
    states: collections.Counter[str] = collections.Counter()
    leftovers = []
    for steps in range(1, 1000):
        target = base / str(steps) / "target"
        target.parent.mkdir(parents=True)
        save(target, OLD)
        finished = not killed(save, target, steps)
        states[{OLD: "old", NEW: "new"}.get(read(target), "half")] += 1
        save(target, NEW)
        leftovers += [path.name for path in target.parent.iterdir() if path.name != "target"]
        if target.is_dir():
            leftovers += [path.name for path in target.iterdir() if path.name.startswith(".")]
        if finished:
            break
    return {"states": states, "leftovers": leftovers, "finished": finished}


def main(base: Path) -> None:
    os.fsync = no_sync
    torch.set_num_threads(1)
    RESULTS.update({OLD: make_result(), NEW: make_result()})
    exchange = atomic._exchange
    found = {}
    for mode in MODES:
        atomic._exchange = (lambda first, second: False) if mode == "two-steps" else exchange
        found[mode] = outcomes(mode, base / mode)
    print(json.dumps(found))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(Path(sys.argv[1]))
