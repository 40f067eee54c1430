"""The fastest asynchronous plan within an error, measured on calibration steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.calling import Calling
from graphopt.errors import BudgetError, PreconditionError
from graphopt.passes.partition.finishing import finish
from graphopt.passes.partition.resources import Resources
from graphopt.program import Program
from graphopt.proof.partitioning import relative_error
from graphopt.rewrite.placing.emulator import Emulator, flat_inputs
from graphopt.rewrite.placing.layouts import placed_stages
from graphopt.scores.calibration import call_batch, numbered_batches
from graphopt.stages import STEADY, SYNC, Partition
from graphopt.values import tensors_in

EXTRAPOLATIONS = (0.0, 0.5, 1.0)
"""How far late values are continued, where the user leaves that to the error."""

WARM_UPS = (1, 2, 3, 5, 8)
"""Numbers of first steps that are exact, where the user leaves that to the error."""


def calibration_inputs(program: Program, calibration: Iterable[Any] | None) -> list[list[Any]]:
    """The inputs of consecutive steps of a generation, leaf by leaf.

    Raises:
        PreconditionError: there are fewer than three steps.
    """
    steps = [
        call_batch(lambda *args, **kwargs: flat_inputs(program, args, kwargs), batch)
        for _, batch in numbered_batches(calibration, "an asynchronous partition under error=")
    ]
    if len(steps) < 3:
        raise PreconditionError(
            f"found {len(steps)} calibration steps, wanted the inputs of three or more consecutive steps of one "
            "generation"
        )
    return steps


def step_changes(program: Program, names: Iterable[str], steps: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Mean relative change of values from one step to the next: norm of the difference over norm of the value.

    Args:
        program: the program.
        names: the values.
        steps: inputs of consecutive steps, leaf by leaf.
    """
    watch = _Watch(program.graph_module, frozenset(names))
    changes: dict[str, list[float]] = {}
    before: dict[str, Tensor] = {}
    for leaves in steps:
        watch.seen.clear()
        with torch.no_grad():
            watch.run(*leaves, enable_io_processing=False)
        for name in before.keys() & watch.seen.keys():
            changes.setdefault(name, []).append(relative_error(watch.seen[name], before[name]))
        before = dict(watch.seen)
    return {name: sum(found) / len(found) for name, found in changes.items()}


def within_error(
    program: Program,
    drafts: Iterable[Partition],
    steps: Sequence[Sequence[Any]],
    limit: float,
    resources: Resources,
) -> tuple[Partition, float, tuple[str, ...]]:
    """Return the fastest of several plans whose late steps are within an error.

    Each plan is played on the calibration steps, with their inputs as they are; the error is the mean over its late
    steps of the relative error of the outputs.

    Args:
        program: the program.
        drafts: plans without phases.
        steps: inputs of consecutive steps, leaf by leaf.
        limit: largest error.
        resources: costs, devices and links.

    Returns:
        The plan, its error, and a line for each plan that was tried.

    Raises:
        BudgetError: none is within the error.
    """
    wanted = [tensors_in(program.graph_module(*_called(program, leaves))) for leaves in steps]
    calling = Calling.of(program.graph_module, program.args, program.kwargs)
    alone = resources.costs.total(next(iter(resources.costs.seconds)))
    tried: list[tuple[float, float, Partition]] = []
    lines = []
    for draft in _measurable(drafts, len(steps)):
        finished = finish({"main": program}, draft, resources, calling).partition
        error = _error(program, draft, steps, wanted)
        seconds = draft.warm_up * alone + (len(steps) - draft.warm_up) * finished.step_seconds
        tried.append((seconds, error, draft))
        lines.append(
            f"{finished.phases[STEADY].size_bytes:,} bytes a step, {_variant(draft)}: "
            f"{alone * len(steps) / seconds:.2f}x over {len(steps)} steps, error {error:.3g}"
        )
    if not tried:
        raise PreconditionError(
            f"found {len(steps)} calibration steps and a warm-up as long, wanted a late step to measure; give more "
            "steps, or a smaller warm_up"
        )
    fitting = [one for one in tried if one[1] <= limit]
    if not fitting:
        nearest, closest = min(((error, draft) for _, error, draft in tried), key=lambda one: one[0])
        raise BudgetError(
            f"no asynchronous plan is within error={limit:g}, the mean error of a late step, on {len(steps)} "
            f"calibration steps; the nearest, with {_variant(closest)}, has {nearest:.3g}: allow that, use mode=cfg or "
            "mode=pipeline, which are exact, or fewer devices",
            nearest,
            "; ".join(lines),
        )
    _, error, best = min(fitting, key=lambda one: one[:2])
    return best, error, tuple(lines)


def variants(draft: Partition, *, extrapolate: bool, warm_up: bool) -> Iterator[Partition]:
    """Yield a plan with other extrapolations and warm-ups, where these are left open."""
    for share in EXTRAPOLATIONS if extrapolate else (float(draft.options["extrapolate"]),):
        for first in WARM_UPS if warm_up else (draft.warm_up,):
            yield replace(draft, warm_up=first, options={**draft.options, "extrapolate": share})


def _variant(draft: Partition) -> str:
    return f"warm_up={draft.warm_up} and extrapolate={draft.options['extrapolate']:g}"


def _measurable(drafts: Iterable[Partition], steps: int) -> Iterator[Partition]:
    """Plans that leave a late step to measure."""
    for draft in drafts:
        if draft.warm_up < steps:
            yield draft


def _error(program: Program, draft: Partition, steps: Sequence[Sequence[Any]], wanted: list[list[Tensor]]) -> float:
    emulator = Emulator(placed_stages({"main": program}, draft))
    errors = []
    for number, (leaves, right) in enumerate(zip(steps, wanted, strict=True)):
        late = number >= draft.warm_up
        found = tensors_in(emulator.run_flat(STEADY if late else SYNC, leaves))
        if late:
            errors.append(max(map(relative_error, right, found)))
    return sum(errors) / len(errors)


def _called(program: Program, leaves: Sequence[Any]) -> Any:
    codegen: Any = program.graph_module.graph._codegen
    args, kwargs = pytree.tree_unflatten(leaves, codegen.pytree_info.in_spec)
    return (*args, *kwargs.values())


class _Watch(fx.Interpreter):
    """Run a graph and hold copies of some of its values."""

    def __init__(self, graph_module: fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(graph_module)
        self.names = names
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Hold the value of a node that is watched."""
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, Tensor):
            self.seen[n.name] = value.clone()
        return value
