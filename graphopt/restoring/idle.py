"""Modules that run for nothing: what they return reaches no output that the program has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from graphopt.assembly import named_attributes
from graphopt.program import Program
from graphopt.restoring.recording import Run
from graphopt.restoring.skipping import Nothing, PassOn, outermost


def put_aside(module: nn.Module, model: nn.Module, runs: Sequence[Run], program: Program) -> tuple[str, ...]:
    """Put stand-ins into a smaller model for modules none of whose parameters the program reads.

    The class runs them all the same, on what became smaller. A stand-in returns what enters it where that had the shape
    of what is returned, and zeros otherwise: whatever it is, no output depends on it.

    Args:
        module: the smaller model, changed in place.
        model: the user's model.
        runs: its modules' runs, in the order in which they ended.
        program: what the smaller model computes.

    Returns:
        Dotted names of the modules that have a stand-in now.
    """
    held = {name: one.value for name, one in named_attributes(model).items()}
    targets = {str(node.target) for node in program.nodes() if node.op == "get_attr"}
    read = {id(value) for name, value in held.items() if name in targets}
    standing = {run.module: _stand_in(run) for run in outermost(runs, partial(_is_idle, model, read))}
    for name, one in standing.items():
        module.set_submodule(name, one)
    return tuple(standing)


def _is_idle(model: nn.Module, read: set[int], name: str) -> bool:
    """Tell whether a module has parameters, and none of its tensors is read."""
    module = model.get_submodule(name)
    parameters = [*module.parameters()]
    return bool(parameters) and read.isdisjoint(map(id, (*parameters, *module.buffers())))


def _stand_in(run: Run) -> nn.Module:
    given = {shape: place for place, shape, _ in reversed(run.inputs)}
    if run.outputs[0][1] not in given:
        return Nothing(run)
    places: list[int | None] = [None] * run.structure.num_leaves
    for place, shape, _ in run.outputs:
        places[place] = given.get(shape)
    return PassOn(run.structure, places)
