"""The user's own class comes back: a copy of the model with the tensors and integers of a rewritten program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from graphopt.assembly import named_attributes
from graphopt.capture_failure import Attempt
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import BoolArray
from graphopt.dependency.terms import Leaf
from graphopt.errors import ModuleRestoreError, VerificationError
from graphopt.example_inputs import is_weightless
from graphopt.program import Lineage, Program
from graphopt.proof.check import inputs_of
from graphopt.restoring.agreement import require_agreement
from graphopt.restoring.blaming import first_difference
from graphopt.restoring.branches import fit_branches
from graphopt.restoring.constants import Moved, folded, moved_constants
from graphopt.restoring.demands import Sizes, demands_of, equalities, followed, trimmed
from graphopt.restoring.duplicate import duplicate
from graphopt.restoring.floats import put_floats
from graphopt.restoring.idle import put_aside
from graphopt.restoring.matching import Match, match_calls
from graphopt.restoring.observing import Observed, observe
from graphopt.restoring.places import assign
from graphopt.restoring.reasons import INSTEAD, reason
from graphopt.restoring.recording import Call, Recorder, Run, record
from graphopt.restoring.selecting import kept_of, select_tables
from graphopt.restoring.skipping import skip, take_out
from graphopt.restoring.solving import Demand, solve
from graphopt.restoring.tensors import put_tensors
from graphopt.restoring.tracked import Place, places_in
from graphopt.rewrite.ancestry import base_of
from graphopt.untouched import forget_results


@dataclass(frozen=True, eq=False)
class Restoration:
    """A model that came back.

    Attributes:
        module: the smaller model, of the user's class.
        model: the user's model.
        program: what the smaller model computes.
        graph: analysis of the captured program.
        counts: how many indices each leaf keeps.
        calls: what the user's model calls.
        matches: what became of each call.
        read: places whose numbers the model's code passes on when it runs.
        unread: tensors that the program does not read, cut so that the model's own calls on them run.
    """

    module: nn.Module
    model: nn.Module
    program: Program
    graph: DependencyGraph
    counts: Mapping[Leaf, int]
    calls: Sequence[Call]
    matches: Sequence[Match | None]
    read: frozenset[Place]
    unread: Mapping[str, Tensor]

    def undo_constants(self, module: nn.Module) -> tuple[Moved, ...]:
        """Undo in a model's parameters what its code derives from sizes; return what nothing undoes.

        Args:
            module: a smaller model of the class, with the program's tensors; it is given tensors anew.
        """
        trial = Recorder()
        left: tuple[Moved, ...] = ()
        with Attempt():
            record(duplicate(module).eval(), inputs_of(self.program), trial)
            moved = moved_constants(self.calls, self.matches, trial.calls, self.graph, self.counts)
            tensors, left = folded(self.program, list(moved))
            put_tensors(module, {**tensors, **self.unread})
        return left


def restore(program: Program, model: nn.Module) -> Restoration:
    """Make a model of the user's class that computes what a rewritten program computes.

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
    inputs = inputs_of(lineage.origin)
    observed = None
    with Attempt() as attempt:
        observed = observe(model, inputs, apart=True)
        return _restored(program, model, lineage, observed)
    if observed is not None and not observed.hashed:
        raise attempt.failed()
    with Attempt() as again:  # a table may not have found a number that was told apart
        return _restored(program, model, lineage, observe(model, inputs, apart=False))
    raise attempt.failed() if observed is not None else again.failed()


def _restored(program: Program, model: nn.Module, lineage: Lineage, observed: Observed) -> Restoration:
    """The model that a run of the user's model leads to."""
    graph = DependencyGraph(base_of(program), regroup=lineage.regroup)
    masks = graph.masks(lineage.kept)
    counts = {leaf: int(mask.sum()) for leaf, mask in masks.items()}
    matches = match_calls(observed.calls, graph, counts)
    demands = [
        *demands_of(matches, graph, counts),
        *equalities(observed.comparisons),
        *followed(observed.calls, matches),
    ]
    sizes = Sizes(observed.calls, matches, program.parameters)
    solution = solve(demands, observed.numbers, sizes)
    unread = trimmed(observed.calls, matches, sizes, program.parameters)
    restored = duplicate(model)
    assign(restored, solution.values)
    put_floats(restored, matches, program)
    passing = skip(restored, observed, lineage.origin, lineage.bypassed)
    put_tensors(restored, {**program.parameters, **unread})
    read = frozenset(place for one in demands if not one.soft for place in places_in(one.expression))
    restoration = Restoration(restored, model, program, graph, counts, observed.calls, matches, read, unread)
    _require_same_outputs(restoration, observed.runs, masks, solution.unmet)
    shortened = _shortened(restoration, passing)
    fit_branches(shortened.module, model, program)
    return shortened


def _require_same_outputs(
    restoration: Restoration, runs: Sequence[Run], masks: Mapping[Leaf, BoolArray], unmet: Sequence[Demand]
) -> None:
    """Undo what sizes move and compare; where the model differs, mend what the class computes beside the program.

    The first failure is told: it is about the class as it was.
    """
    module, program = restoration.module, restoration.program
    wanted = kept_of(restoration.calls, restoration.matches, restoration.graph, masks)
    select = partial(select_tables, module, inputs_of(program), runs, wanted)
    aside = partial(put_aside, module, restoration.model, runs, program)
    mends: tuple[Callable[[], object], ...] = (partial(forget_results, module), select, aside, select)
    failure = _failure(restoration, unmet)
    for mend in mends:
        if failure is None or (mend() and _failure(restoration, unmet) is None):
            return
    if failure is not None:
        raise failure


def _failure(restoration: Restoration, unmet: Sequence[Demand]) -> Exception | None:
    """Why the smaller model is not what the program is; None where it is."""
    with Attempt() as attempt:
        _compare(restoration, unmet)
    return attempt.failure


def _compare(restoration: Restoration, unmet: Sequence[Demand]) -> None:
    left = restoration.undo_constants(restoration.module)
    name = type(restoration.model).__name__

    def explain(failure: Exception) -> str:
        culprit = None
        if isinstance(failure, VerificationError) and not unmet and not left:
            culprit = first_difference(restoration.module, restoration.program, restoration.calls, restoration.matches)
        return reason(name, failure, unmet, left, culprit)

    require_agreement(restoration.module, restoration.program, explain)


def _shortened(restoration: Restoration, passing: Sequence[str]) -> Restoration:
    """Take what only passes on out of its list, where the model computes the same without it."""
    shorter = duplicate(restoration.module) if passing else restoration.module
    with Attempt() as attempt:
        take_out(shorter, passing)
        require_agreement(shorter, restoration.program, str)
    return restoration if attempt.failure is not None else replace(restoration, module=shorter)


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
