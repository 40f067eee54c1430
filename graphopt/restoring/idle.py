"""Modules that run for nothing: what they return reaches no output that the program has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from graphopt.assembly import named_attributes
from graphopt.program import Program
from graphopt.restoring.recording import Run
from graphopt.restoring.skipping import Nothing, PassOn


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
    standing = {run.module: _stand_in(run) for run in _idle(runs, read, model)}
    for name, one in standing.items():
        module.set_submodule(name, one)
    return tuple(standing)


def _idle(runs: Sequence[Run], read: set[int], model: nn.Module) -> Iterator[Run]:
    """Yield the outermost modules that have parameters, none of which is read."""
    taken: list[str] = []
    for run in sorted(runs, key=lambda one: one.module.count(".")):
        if not run.module or f"{run.module}.".startswith(tuple(f"{name}." for name in taken)):
            continue
        own: list[Tensor] = [*(held := model.get_submodule(run.module)).parameters(), *held.buffers()]
        if any(True for _ in held.parameters()) and read.isdisjoint(map(id, own)) and run.inputs and run.outputs:
            taken.append(run.module)
            yield run


def _stand_in(run: Run) -> nn.Module:
    given = {shape: place for place, shape, _ in reversed(run.inputs)}
    if run.outputs[0][1] not in given:
        return Nothing(run)
    places: list[int | None] = [None] * run.structure.num_leaves
    for place, shape, _ in run.outputs:
        places[place] = given.get(shape)
    return PassOn(run.structure, places)
