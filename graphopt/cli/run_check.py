"""The same run on one device, and in the emulator, for `graphopt run --check`."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.calling import Calling
from graphopt.cli.saved import load_saved
from graphopt.cli.screen import Screen
from graphopt.pass_manager import Result
from graphopt.runtime.distributed.example_run import compare, example_timesteps, play
from graphopt.runtime.distributed.saved import calling_of, partition_of
from graphopt.runtime.distributed.worker import Finished, example_inputs
from graphopt.runtime.emulation import Emulation
from graphopt.runtime.session import CacheSession
from graphopt.values import tensors_in

Call = Callable[..., Any]


def check_run(
    folder: Path, finished: Finished, model: str | None, screen: Screen, threads: int
) -> dict[str, bool | float | None]:
    """Compare a run with one device, which plays the same schedule where there is one, and with the emulator.

    Args:
        folder: The saved result.
        finished: What the run left.
        model: Text of the target that builds the model; where it was recorded by default.
        screen: Where progress is shown.
        threads: Threads that one operator may use, as in the run.

    Returns:
        ``bit_equal`` and ``error`` against one device, ``emulated_equal`` against the emulator. The error is None where
        infinities or NaN differ, which JSON has no number for.

    Raises:
        GraphoptError: The model cannot be built, or does not fit the folder.
    """
    result = load_saved(folder, model, screen)
    calling = calling_of(partition_of(result.plan, str(folder)))
    given = example_inputs(folder, calling.inputs)
    steps = finished.figures.steps
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        screen.step("computing on one device")
        alone = result.program if result.schedule is None else CacheSession(result)
        single = play(_Flat(alone, calling, given), given, steps).tensors
        screen.step("computing in the emulator")
        emulated = play(_Emulated(result, calling, given, steps), given, steps).tensors
    finally:
        torch.set_num_threads(before)
    bit_equal, error = compare(finished.tensors, single)
    bounded = error if math.isfinite(error) else None
    return {"bit_equal": bit_equal, "error": bounded, "emulated_equal": compare(finished.tensors, emulated)[0]}


class _Flat:
    """A program on inputs by name, which returns the tensors of its output."""

    def __init__(self, program: Call, calling: Calling, given: Mapping[str, Any]) -> None:
        self._program = program
        self._calling = calling
        self._given = given

    def __call__(self, now: Mapping[str, Tensor]) -> list[Tensor]:
        args, kwargs = self._arguments(now)
        return tensors_in(self._program(*args, **kwargs))

    def _arguments(self, now: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = [now.get(name, self._given[name]) for name in self._calling.inputs]
        args, kwargs = pytree.tree_unflatten(leaves, pytree.treespec_loads(self._calling.takes))
        return args, kwargs


class _Emulated(_Flat):
    """A partition in one process."""

    def __init__(self, result: Result, calling: Calling, given: Mapping[str, Any], steps: int) -> None:
        emulation = Emulation(result)
        emulation.reset(steps=steps, timesteps=example_timesteps(emulation.partition, given, steps))
        super().__init__(emulation, calling, given)
