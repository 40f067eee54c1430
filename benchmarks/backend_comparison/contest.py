"""Eager, inductor and graphopt handing on to inductor, in turn."""

from __future__ import annotations

import copy
import os
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.utils import _pytree as pytree

from backend_comparison.subjects import Subject
from graphopt.backend.guard import TensorGuard
from graphopt.measure import compare_latency

SYSTEMS = ("eager", "inductor", "graphopt")


@dataclass(frozen=True)
class Row:
    """One system on one model.

    Attributes:
        model: name of the model.
        share: share of the indices that were zeroed.
        zeros: share of the parameters that are zero.
        system: one of `SYSTEMS`.
        compile_seconds: CPU seconds of the first call, processes that it started included.
        milliseconds: median CPU milliseconds of a call.
        speed_up: inductor's seconds over this system's, the median over the rounds.
        error: largest distance of an output from eager in float64, relative to the output's norm.
        guard_microseconds: what looking at every parameter takes a call, where the graph was rewritten.
    """

    model: str
    share: float
    zeros: float
    system: str
    compile_seconds: float
    milliseconds: float
    speed_up: float
    error: float
    guard_microseconds: float = 0.0


def compete(name: str, share: float, zeros: float, subject: Subject, rounds: int) -> list[Row]:
    """Compile the model with every system, compare the outputs, then time them in turn."""
    wide = _run(copy.deepcopy(subject.model).double(), _widened(subject.args), subject.kwargs)
    calls: dict[str, Callable[[], Any]] = {}
    seconds, errors = {}, {}
    for system in SYSTEMS:
        call = _compiled(subject.model, system)
        with fresh_cache():
            seconds[system] = _cpu_seconds(lambda call=call: _run(call, subject.args, subject.kwargs))
        errors[system] = _error(wide, _run(call, subject.args, subject.kwargs))
        calls[system] = lambda call=call: _run(call, subject.args, subject.kwargs)
    order = {"inductor": calls["inductor"], **calls}
    found = compare_latency(order, repeats=rounds, clock=time.process_time)
    guard = guard_microseconds(subject.model)
    return [
        Row(
            name,
            share,
            zeros,
            system,
            seconds[system],
            1e3 * found.latencies[system].median_seconds,
            1 / found.ratios[system],
            errors[system],
            guard if system == "graphopt" and share else 0.0,
        )
        for system in SYSTEMS
    ]


def warm_up() -> None:
    """Compile something small with every backend: imports and the compiler's own first use do not count."""
    for system in SYSTEMS[1:]:
        with fresh_cache():
            _run(_compiled(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), system), (torch.ones(2, 4),), {})


def guard_microseconds(model: nn.Module) -> float:
    """Median time of one look at every parameter and buffer."""
    tensors = [*model.parameters(), *model.buffers()]
    guard = TensorGuard(dict(enumerate(tensors)))
    times = timeit.repeat(lambda: guard.holds(tensors), number=100, repeat=20)
    return 1e6 * sorted(times)[len(times) // 2] / 100


def _compiled(model: nn.Module, system: str) -> Callable[..., Any]:
    if system == "eager":
        return model
    torch._dynamo.reset()
    return torch.compile(copy.deepcopy(model), backend=system, fullgraph=True)


@torch.no_grad()
def _run(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(call(*args, **kwargs)) if isinstance(leaf, Tensor)]


def _cpu_seconds(call: Callable[[], object]) -> float:
    before = os.times()
    call()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def _widened(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map_only(Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, args)


def _error(wide: list[Tensor], found: list[Tensor]) -> float:
    pairs = zip(wide, found, strict=True)
    return max(float((one - other.double()).norm() / one.norm()) for one, other in pairs)
