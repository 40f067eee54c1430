"""The user's own class comes back: a copy of the model with the tensors and integers of a rewritten program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from graphopt.assembly import named_attributes
from graphopt.capture_failure import Attempt
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.terms import Leaf
from graphopt.errors import ModuleRestoreError
from graphopt.example_inputs import is_weightless
from graphopt.program import Lineage, Program
from graphopt.proof.check import inputs_of
from graphopt.restoring.agreement import require_agreement
from graphopt.restoring.constants import Moved, folded, moved_constants
from graphopt.restoring.demands import Sizes, demands_of, equalities, followed
from graphopt.restoring.duplicate import duplicate
from graphopt.restoring.matching import Match, match_calls
from graphopt.restoring.observing import observe
from graphopt.restoring.places import assign
from graphopt.restoring.reasons import INSTEAD, reason
from graphopt.restoring.recording import Recorder, record
from graphopt.restoring.solving import solve
from graphopt.restoring.tensors import put_tensors
from graphopt.rewrite.bypassing import bypass


def restore(program: Program, model: nn.Module) -> nn.Module:
    """Return a model of the user's class that computes what a rewritten program computes.

    The model runs once with integers that remember which attribute they came from. Numbers that reach an operator are
    laid beside what the rewritten program has there, and solved for the attributes. What a class derives from sizes
    when it runs, such as the scale of attention, is undone in parameters. The program is the oracle at the end.

    Args:
        program: captured from the model and rewritten.
        model: the user's model; it is left as it is, and shares nothing with what is returned.

    Raises:
        ModuleRestoreError: the class cannot say what the program does; the message names module and source line.
    """
    lineage = program.lineage or Lineage(program, {})
    _require_same(model, lineage.origin)
    graph = DependencyGraph(_base(lineage), regroup=lineage.regroup)
    counts = {leaf: int(mask.sum()) for leaf, mask in graph.masks(lineage.kept).items()}
    observed = observe(model, inputs_of(lineage.origin))
    matches = match_calls(observed.calls, graph, counts)
    demands = [*demands_of(matches), *equalities(observed.comparisons), *followed(observed.calls, matches)]
    solution = solve(demands, observed.numbers, Sizes(observed.calls, matches, program.parameters))
    restored = duplicate(model)
    assign(restored, solution.values)
    put_tensors(restored, program.parameters)
    left = _undo_constants(restored, program, matches, graph, counts)
    name = type(model).__name__
    require_agreement(restored, program, lambda failure: reason(name, failure, solution.unmet, left))
    return restored


def _undo_constants(
    restored: nn.Module,
    program: Program,
    matches: Sequence[Match | None],
    graph: DependencyGraph,
    counts: Mapping[Leaf, int],
) -> tuple[Moved, ...]:
    """Undo constants that differ in the smaller model; return those that nothing undoes."""
    trial = Recorder()
    left: tuple[Moved, ...] = ()
    with Attempt():
        record(duplicate(restored).eval(), inputs_of(program), trial)
        tensors, left = folded(program, list(moved_constants(matches, trial.calls, graph, counts)))
        put_tensors(restored, tensors)
    return left


def _base(lineage: Lineage) -> Program:
    return bypass(lineage.origin, lineage.bypassed) if lineage.bypassed else lineage.origin


def _require_same(model: nn.Module, origin: Program) -> None:
    """Refuse a model that the program was not captured from, and one without weights."""
    if is_weightless(model):
        raise ModuleRestoreError(
            "the model is on the meta device, where outputs cannot be compared; load its weights first, capture and "
            "prune it again"
        )
    held = {name: one.value for name, one in named_attributes(model).items()}
    for name, tensor in origin.parameters.items():
        found = held.get(name)
        if isinstance(found, Tensor) and found.shape != tensor.shape:
            raise ModuleRestoreError(
                f"the model's {name} is {list(found.shape)} and that of the captured one {list(tensor.shape)}; give "
                f"the model that was captured, or one built alike; {INSTEAD}"
            )
