"""How fast and how exact cached steps are, measured, and which choices no other one beats."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.measure import compare_latency
from graphopt.program import Program
from graphopt.regions import CutCandidate
from graphopt.rewrite.extras import extra_inputs
from graphopt.rewrite.stepping import step_programs
from graphopt.schedule import CACHED, FULL, REFRESH, Schedule
from graphopt.scores.calibration import call_batch


@dataclass(frozen=True)
class Measured:
    """A candidate at an interval.

    Attributes:
        candidate: where the program is cut.
        interval: distance of full steps.
        order: order of the predictor.
        speedup: time of a generation without cache over that with it.
        error: relative L2 error of the model's output, mean over the steps of an interval, the full one included.
    """

    candidate: CutCandidate
    interval: int
    order: int
    speedup: float
    error: float


def measure(
    program: Program,
    schedule: Schedule,
    candidate: CutCandidate,
    steps: Sequence[Any],
    intervals: Iterable[int],
    repeats: int,
    allow_dead: Iterable[str],
) -> list[Measured]:
    """Measure a candidate at some intervals.

    Args:
        program: the program without cache.
        schedule: what its cached programs read, with one order for all slots.
        candidate: where they come from.
        steps: inputs of the steps of one generation, in order.
        intervals: distances of full steps.
        repeats: timed runs of each program.
        allow_dead: patterns of inputs that a cached step may ignore.

    Raises:
        PlanError: the program cannot be cut there.
    """
    programs = step_programs(program, schedule, allow_dead=tuple(allow_dead))
    calls = {name: (lambda one=one: one(*one.args, **one.kwargs)) for name, one in programs.items()}
    device = next((tensor.device for tensor in program.parameters.values()), torch.device("cpu"))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with torch.no_grad():
        whole = {"program": lambda: program(*program.args, **program.kwargs)}
        times = compare_latency({**whole, **calls}, repeats=repeats, device=device, clock=clock)
    full = max(1.0, times.ratios[REFRESH if REFRESH in times.ratios else FULL])  # it does all that the program does
    cached = min(full, times.ratios[CACHED])
    order = max(slot.order for slot in schedule.slots.values())
    found = []
    for interval in intervals:
        speedup = interval / (full + (interval - 1) * cached)
        found.append(
            Measured(candidate, interval, order, speedup, _error(program, programs, schedule, steps, interval))
        )
    return found


def pareto(measured: Iterable[Measured]) -> list[Measured]:
    """Those that no other beats in both speed and error, fastest first."""
    found: list[Measured] = []
    for item in sorted(measured, key=lambda one: (-one.speedup, one.error)):
        if not found or item.error < found[-1].error:
            found.append(item)
    return found


def table_lines(frontier: Sequence[Measured], chosen: Measured) -> list[str]:
    """The frontier as lines of text, the chosen one marked."""
    return [
        f"{'chosen: ' if item is chosen else ''}{item.candidate.id} ({', '.join(map(str, item.candidate.cuts))}) every "
        f"{item.interval}, order {item.order}: {item.speedup:.2f}x, error {item.error:.2%}"
        for item in frontier
    ]


def _error(
    program: Program, programs: Mapping[str, Program], schedule: Schedule, steps: Sequence[Any], interval: int
) -> float:
    """Mean relative error over the steps of a generation whose inputs are those of the run without cache."""
    held: dict[str, Tensor] = {}
    errors: list[float] = []
    filled, updates = 0, 0
    with torch.no_grad():
        for step, batch in enumerate(steps):
            name = CACHED if step % interval else (REFRESH if REFRESH in programs and updates else FULL)
            extras = extra_inputs(schedule, name, held, elapsed=step - filled, updates=updates)
            output, given = call_batch(_with_extras(programs[name], extras), batch)
            held.update(given)
            if name == CACHED:
                errors.append(_relative(output, call_batch(program, batch)))
            else:
                filled, updates = step, updates + 1
                errors.append(0.0)
    return sum(errors) / len(errors)


def _with_extras(program: Program, extras: Mapping[str, Tensor]) -> Any:
    return lambda *args, **kwargs: program(*args, **kwargs, **extras)


def _relative(found: Any, wanted: Any) -> float:
    """Distance of all outputs, over the magnitude of what they should be."""
    ones = [leaf.float() for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
    others = [leaf.float() for leaf in pytree.tree_leaves(wanted) if isinstance(leaf, Tensor)]
    distance = sum(float((one - other).square().sum()) for one, other in zip(ones, others, strict=True))
    scale = sum(float(other.square().sum()) for other in others)
    return float((distance / scale) ** 0.5) if scale else float(distance > 0)
