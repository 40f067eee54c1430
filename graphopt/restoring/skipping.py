"""Branches and blocks that are left out, in a model's own modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphopt.program import Bypass, Program
from graphopt.restoring.matching import nodes_of
from graphopt.restoring.observing import Observed
from graphopt.restoring.recording import Run, Source


class PassOn(nn.Module):
    """Stands for a block that is left out: returns what entered it, in the structure that the block returned.

    Args:
        structure: structure of what the block returned.
        places: for each leaf of that which of the leaves of the inputs it is; None for what is left out.
    """

    def __init__(self, structure: pytree.TreeSpec, places: Sequence[int | None]) -> None:
        super().__init__()
        self._structure = structure
        self._places = tuple(places)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what entered."""
        leaves = pytree.tree_leaves((args, kwargs))
        return pytree.tree_unflatten([None if one is None else leaves[one] for one in self._places], self._structure)


class Nothing(nn.Module):
    """Stands for a layer of a branch that is left out: returns zeros that can be added to what the layer returned.

    Args:
        run: a call of the layer. Sizes that its output shares with its first input follow the input, others are one.
            Leaves of the output after the first are None.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._structure = run.structure
        given, returned = run.inputs[0][1], run.outputs[0][1]
        alike = len(given) == len(returned)
        self._rank = len(returned)
        self._follows = tuple(alike and one == given[place] for place, one in enumerate(returned))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros."""
        first = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        follows = self._follows if first.ndim == self._rank else (False,) * self._rank
        sizes = [*first.shape, *[1] * self._rank]
        shape = [size if follow else 1 for size, follow in zip(sizes, follows, strict=False)]
        rest = [None] * (self._structure.num_leaves - 1)
        return pytree.tree_unflatten([first.new_zeros(shape), *rest], self._structure)


def skip(model: nn.Module, observed: Observed, origin: Program, bypasses: Sequence[Bypass]) -> tuple[str, ...]:
    """Put stand-ins into a model for what is left out.

    Args:
        model: changed in place.
        observed: a run of the user's model.
        origin: the captured program.
        bypasses: what is left out of it.

    Returns:
        Names of the modules that pass on what enters them; in a list of modules they can be taken out.
    """
    nodes = _Nodes(observed, nodes_of(observed.calls, origin))
    blocks: dict[str, PassOn] = {}
    leaving: set[str] = set()
    for one in bypasses:
        run, places = next(_blocks(observed.runs, nodes, one.replaced), (None, ()))
        if run is None:
            leaving.update(one.tensors)
        else:
            blocks[run.module] = PassOn(run.structure, places)
    layers = {run.module: Nothing(run) for run in outermost(observed.runs, partial(_leaves, model, leaving))}
    for name, module in (layers | blocks).items():
        model.set_submodule(name, module)
    return tuple(blocks)


def take_out(model: nn.Module, names: Sequence[str]) -> None:
    """Take modules that pass on what enters them out of the lists that they stand in.

    Args:
        model: changed in place.
        names: dotted names of the modules; the others stay.
    """
    for name in sorted(names, key=_place, reverse=True):
        parent, _, leaf = name.rpartition(".")
        holder = model.get_submodule(parent)
        if isinstance(holder, nn.ModuleList | nn.Sequential) and len(holder) > 1:
            del holder[int(leaf)]


def _place(name: str) -> tuple[str, int]:
    parent, _, leaf = name.rpartition(".")
    return parent, int(leaf) if leaf.isdigit() else -1


class _Nodes:
    """The node of the captured program that gives a tensor of the model."""

    def __init__(self, observed: Observed, nodes: Mapping[int, str]) -> None:
        self._calls = observed.calls
        self._nodes = nodes

    def __call__(self, source: Source | None, shape: tuple[int, ...]) -> str | None:
        while source is not None and isinstance(source[0], int) and source[0] not in self._nodes:
            call = self._calls[source[0]]
            source = next((held for other, held in call.operands if other == shape), None)
        return None if source is None or isinstance(source[0], str) else self._nodes[source[0]]


def _blocks(
    runs: Sequence[Run], nodes: _Nodes, replaced: Mapping[str, str]
) -> Iterator[tuple[Run, tuple[int | None, ...]]]:
    """Yield the modules that return just what is replaced and are given what replaces it, with where that is."""
    for run in runs:
        given = {nodes(source, shape): place for place, shape, source in run.inputs}
        names = [nodes(source, shape) for _, shape, source in run.outputs]
        inputs = [given.get(replaced.get(name or "", None)) for name in names]
        if not run.module or len(replaced) > sum(name in replaced for name in names) or None in inputs[:1]:
            continue
        places: list[int | None] = [None] * run.structure.num_leaves
        for (place, _, _), found in zip(run.outputs, inputs, strict=True):
            places[place] = found
        yield run, tuple(places)


def outermost(runs: Sequence[Run], leaves: Callable[[str], bool]) -> Iterator[Run]:
    """Yield a run of each outermost module that leaves, the model itself aside.

    Args:
        runs: modules that were called; one that was given no tensor, or returned none, can have no stand-in.
        leaves: tells by the name of a module whether it leaves.
    """
    taken: list[str] = []
    for run in sorted(runs, key=lambda one: one.module.count(".")):
        inside = f"{run.module}.".startswith(tuple(f"{name}." for name in taken))
        if run.module and not inside and run.inputs and run.outputs and leaves(run.module):
            taken.append(run.module)
            yield run


def _leaves(model: nn.Module, tensors: set[str], name: str) -> bool:
    """Tell whether a module has parameters, and all of them leave."""
    own = [f"{name}.{leaf}" for leaf, _ in model.get_submodule(name).named_parameters()]
    return bool(own) and tensors.issuperset(own)
