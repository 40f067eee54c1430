"""What is made of a graph of torch.compile: its program, rewritten, and the programs of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.backend.arrival import Arrival
from graphopt.backend.conversion import convert
from graphopt.backend.handing import hand_on
from graphopt.backend.options import BackendOptions
from graphopt.backend.refusals import refused_program
from graphopt.errors import CaptureError, SpecError
from graphopt.pass_manager import Pass, PassContext, Pipeline, Result
from graphopt.pass_manager.base import PassResult
from graphopt.passes.layers.prune import PruneLayers
from graphopt.program import Program
from graphopt.proof.unchanged import check_outputs
from graphopt.values import hint


@dataclass(frozen=True, eq=False)
class Rewriting:
    """What became of a graph.

    Attributes:
        base: The graph that arrived, or what is left of it without the layers to skip; it reads the user's tensors.
        graph_module: The rewritten graph, called like the one that arrived; None where nothing was proved.
        cached: Programs and schedule of the cache; None where none was asked for.
        inputs: Where the inputs of those programs stand among the arguments of a call.
        report: What the passes did, in words.
    """

    base: fx.GraphModule
    graph_module: fx.GraphModule | None
    cached: Result | None
    inputs: tuple[int, ...]
    report: str


class _OnlyCaching:
    """Refuses a pass that makes no schedule, among those of the cache."""

    def before(self, pass_: Pass, program: Program) -> None:
        """Do nothing."""

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        """Look for a schedule.

        Raises:
            SpecError: There is none.
        """
        if result.schedule is None:
            raise SpecError(f"option cache: {pass_} makes no schedule, wanted caching passes only", option="cache")


def rewrite(arrival: Arrival, args: Sequence[Any], options: BackendOptions) -> Rewriting:
    """Run the passes over a graph.

    Args:
        arrival: The graph.
        args: One argument for each placeholder.
        options: Which passes, and whether the result is checked.

    Raises:
        CaptureError: The graph must stay as it is, or cannot be written in ATen operators.
        VerificationError: The rewritten graph does not give what the original gives.
        GraphoptError: A pass failed.
    """
    original = convert(arrival, args)
    reason = refused_program(original)
    if reason is not None:
        raise CaptureError(reason)
    context = PassContext(fuel=options.fuel, verify=False)
    base, program, report = arrival.graph_module, original, ""
    if options.skip:
        skipping = Pipeline(PruneLayers(layers=options.skip))
        skipped = skipping.run(original, context)
        program, report = skipped.program, f"{skipped.report}\n"
        unfolded = convert(arrival, args, fold=False)  # it runs whatever the parameters are later
        base = hand_on(arrival, skipping.run(unfolded, context).program, unfolded)
    result = Pipeline(options.exact_passes()).run(program, context)
    rewritten = None if result.program is program else hand_on(arrival, result.program, original)
    if options.verify and rewritten is not None:
        kinds = [arg.dtype for arg in args if isinstance(arg, Tensor)]
        check_outputs(_run(base, args), _run(rewritten, args), kinds)
    names = [place.name for place in arrival.places]
    inputs = tuple(names.index(str(node.target)) for node in original.graph_module.graph.find_nodes(op="placeholder"))
    return Rewriting(
        base, rewritten, _cache(result.program, options), inputs, f"{report}{result.report}{_notes(result)}"
    )


def _notes(result: Result) -> str:
    """What the passes say, a line each."""
    return "".join(f"\n  {note}" for report in result.report.passes for note in report.notes)


def _cache(program: Program, options: BackendOptions) -> Result | None:
    if options.cache is None:
        return None
    context = PassContext(verify=options.verify)
    return Pipeline(options.caching_passes()).run(program, context, instruments=[_OnlyCaching()])


def _run(graph_module: fx.GraphModule, args: Sequence[Any]) -> list[Tensor]:
    """The tensors that a graph gives with sizes as they are on the example; it writes to none of its arguments."""
    numbers = [hint(arg) if isinstance(arg, torch.SymInt) else arg for arg in args]
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(graph_module(*numbers)) if isinstance(leaf, Tensor)]
