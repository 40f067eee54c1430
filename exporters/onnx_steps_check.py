"""Law 6 for schedules: every file computes what its program computes, on what the files before it filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.errors import ExportError
from graphopt.exporters.onnx_branches import USE_CACHE
from graphopt.exporters.onnx_check import example_batch, other_batch, require_passed, resized
from graphopt.exporters.onnx_steps import StepModel, input_name, model_kwargs
from graphopt.exporters.runtime import OutputError, compare_output, run_session, session
from graphopt.schedule import CACHED, DISTANCE, ELAPSED, FULL, UPDATES, Schedule

Errors = dict[str, tuple[OutputError, ...]]
Run = Callable[[str, dict[str, Tensor], dict[str, Tensor]], dict[str, np.ndarray]]
"""Runs a program by id, on inputs by name, given also what torch returns, and gives the outputs by name."""
NUMBERS = {ELAPSED: 2.0, UPDATES: 3.0}
"""Numbers for the comparison with which every term of a predictor counts."""


def verify_steps(
    schedule: Schedule, steps: Mapping[str, StepModel], run: Run, tolerance: float
) -> tuple[Errors, tuple[str, ...]]:
    """Compare files with their programs on the example inputs and, where the batch is dynamic, at other sizes.

    What a program reads is what the programs before it filled, and noise: a file that ignored it would differ.

    Args:
        schedule: What the programs read and fill.
        steps: The models that were written.
        run: Runs them.
        tolerance: Largest error allowed in a floating output, as a fraction of its largest magnitude.

    Returns:
        The errors measured by id of the program, and notes for the user.

    Raises:
        ExportError: An output differs by more than the tolerance, or ONNX Runtime cannot run a file.
    """
    full = steps[FULL]
    example = example_batch(full.program, full.built)
    sizes = [example] if example is None else list(dict.fromkeys((example, other_batch(example, full.built))))
    found = [_compare(schedule, steps, run, size, tolerance) for size in sizes]
    if example is None:
        return _joined(found), ()
    notes = [] if len(sizes) > 1 else [f"the batch can only be {example}; it was compared at that size alone"]
    if 1 not in sizes:
        try:
            found.append(_compare(schedule, steps, run, 1, tolerance))
        except (ExportError, RuntimeError) as error:
            notes.append(f"a batch of 1 does not work ({error}); use {full.built.smallest_batch} or more")
    return _joined(found), tuple(notes)


def run_folder(steps: Mapping[str, StepModel], folder: Path) -> Run:
    """Open the file of every program in ONNX Runtime.

    Raises:
        ExportError: ONNX Runtime cannot load one.
    """
    sessions = {name: session(folder / f"{name}.onnx") for name in steps}

    def run(name: str, feeds: dict[str, Tensor], _: dict[str, Tensor]) -> dict[str, np.ndarray]:
        return _run(sessions[name], feeds)

    return run


def run_branches(path: Path) -> Run:
    """Open the one file of a full and a cached program in ONNX Runtime.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    opened = session(path)

    def run(name: str, feeds: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, np.ndarray]:
        idle = {
            node.name: torch.zeros_like(expected[node.name.replace("in.", "out.", 1)])
            for node in opened.get_inputs()
            if node.name.startswith("cache_in.") and node.name not in feeds
        }
        return _run(opened, {**feeds, **idle, USE_CACHE: torch.tensor(name == CACHED)})

    return run


def _run(opened: Any, feeds: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return dict(zip([node.name for node in opened.get_outputs()], run_session(opened, feeds), strict=True))


def _compare(
    schedule: Schedule, steps: Mapping[str, StepModel], run: Run, size: int | None, tolerance: float
) -> Errors:
    full = steps[FULL]
    count = len(pytree.tree_leaves((full.program.args, model_kwargs(full.program, schedule, FULL))))
    ports = {port.position: port for step in steps.values() for port in step.built.inputs if port.position < count}
    args, kwargs = resized(full.program, replace(full.built, inputs=tuple(ports.values())), size)
    kwargs = {key: value for key, value in kwargs.items() if key not in schedule.inputs(FULL)}
    leaves = pytree.tree_leaves((args, kwargs))
    feeds = {port.name: leaves[port.position] for port in ports.values()}
    known: dict[str, Tensor] = {name: torch.tensor(value) for name, value in NUMBERS.items()}
    errors: Errors = {}
    for name in _in_order(schedule):
        step = steps[name]
        extras = {key: known[key] for key in schedule.inputs(name)}
        with torch.no_grad():
            returned, filled = step.program(*args, **kwargs, **extras)
        expected = pytree.tree_leaves((returned, filled))
        named = {port.name: expected[port.position] for port in step.built.outputs}
        found = run(name, {**feeds, **{input_name(key): value for key, value in extras.items()}}, named)
        errors[name] = tuple(compare_output(value, found[key], key, size, tolerance) for key, value in named.items())
        require_passed(errors[name], name)
        known |= _disturbed(schedule, filled)
    return errors


def _in_order(schedule: Schedule) -> list[str]:
    """Ids of the programs, each behind those that fill what it reads."""
    waiting, known, order = dict.fromkeys(schedule.programs), set(NUMBERS), list[str]()
    while waiting:
        name = next(one for one in waiting if _base_names(schedule, one) <= known)
        order.append(name)
        del waiting[name]
        known |= {*schedule.programs[name].writes, *schedule.programs[name].renews}
    return order


def _base_names(schedule: Schedule, program: str) -> set[str]:
    step = schedule.programs[program]
    return {*step.reads, *step.renews, *step.measures}


def _disturbed(schedule: Schedule, filled: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was filled, and stand-ins for the differences of predictors, all with a little noise."""
    found = {name: tensor for name, tensor in filled.items() if name != DISTANCE}
    for name, slot in schedule.slots.items():
        if name in found:
            found |= {key: found[name] for key in slot.tensors(name) if key not in found}
    generator = torch.Generator().manual_seed(0)
    return {name: _noisy(tensor, generator) for name, tensor in found.items()}


def _noisy(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return tensor + noise * (0.1 * tensor.detach().abs().mean())


def _joined(found: list[Errors]) -> Errors:
    return {name: tuple(error for errors in found for error in errors[name]) for name in found[0]}
