"""Tables that a class computes whole, such as sines of positions: hooks select what the program keeps of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphopt.capture_failure import Attempt
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import BoolArray, kept_mask
from graphopt.dependency.terms import Leaf as Axis
from graphopt.example_inputs import ExampleInputs
from graphopt.restoring.duplicate import duplicate
from graphopt.restoring.matching import Match
from graphopt.restoring.recording import Call, Leaf, Run, Source

Wanted: TypeAlias = Callable[[Leaf], Sequence[BoolArray | None]]
"""Which indices of each dimension a tensor keeps, None where it keeps all; empty where that is not known."""


@dataclass(frozen=True)
class Selection:
    """What is kept of one tensor.

    Attributes:
        place: which leaf of a module's inputs or outputs it is.
        dim: the dimension.
        kept: for each index whether it is kept; a dimension of several times as many repeats it.
    """

    place: int
    dim: int
    kept: tuple[bool, ...]

    def __call__(self, tensor: Tensor) -> Tensor:
        """Select; a tensor whose size is not a multiple of what is known is left as it is."""
        times, rest = divmod(tensor.shape[self.dim], len(self.kept))
        if rest:
            return tensor
        kept = torch.tensor(self.kept, device=tensor.device).repeat(times)
        return tensor.index_select(self.dim, kept.nonzero().flatten())


@dataclass(frozen=True)
class SelectInputs:
    """A hook before a module: hands on a part of what the module is given."""

    selections: tuple[Selection, ...]

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the arguments with the selected parts."""
        return _selected((args, kwargs), self.selections)


@dataclass(frozen=True)
class SelectOutputs:
    """A hook behind a module: hands on a part of what the module returns."""

    selections: tuple[Selection, ...]

    def __call__(self, module: nn.Module, args: Any, result: Any) -> Any:
        """Return the result with the selected parts."""
        return _selected(result, self.selections)


def select_tables(model: nn.Module, inputs: ExampleInputs, runs: Sequence[Run], wanted: Wanted) -> bool:
    """Give a smaller model hooks that select what is as large as before and should be smaller.

    Args:
        model: the smaller model; it is given hooks.
        inputs: what it is called with.
        runs: what the user's model did, module by module.
        wanted: what is kept of the tensors that entered and left its modules.

    Returns:
        Whether any hook was needed.
    """
    shell = duplicate(model).eval()
    trial = _Trial(shell, runs, wanted)
    inputs = inputs.map_tensors(torch.clone)
    with Attempt(), torch.no_grad(), torch.random.fork_rng(devices=[]), trial:
        torch.manual_seed(0)
        shell(*inputs.args, **inputs.kwargs)
    for name, selections in trial.before.items():
        model.get_submodule(name).register_forward_pre_hook(SelectInputs(tuple(selections)), with_kwargs=True)
    for name, selections in trial.behind.items():
        model.get_submodule(name).register_forward_hook(SelectOutputs(tuple(selections)))
    return bool(trial.before or trial.behind)


def kept_of(
    calls: Sequence[Call], matches: Sequence[Match | None], graph: DependencyGraph, masks: Mapping[Axis, BoolArray]
) -> Wanted:
    """What is kept of tensors that calls returned.

    Args:
        calls: what the user's model calls.
        matches: what became of each call.
        graph: analysis of the captured program.
        masks: which indices each axis keeps.
    """

    def wanted(leaf: Leaf) -> Sequence[BoolArray | None]:
        _, shape, source = leaf
        found = _matched(calls, matches, source, shape)
        if found is None:
            return ()
        match, output = found
        dims = graph.analysis.facts.dims.get(match.nodes[-1])
        entry = dims[output] if dims and isinstance(dims[0], list) else dims
        if not entry or len(entry) != len(shape):
            return ()
        kept = [kept_mask(graph.analysis.algebra.resolve(dim), masks) for dim in entry]
        return [None if one.all() else one for one in kept]

    return wanted


def _matched(
    calls: Sequence[Call], matches: Sequence[Match | None], source: Source | None, shape: tuple[int, ...]
) -> tuple[Match, int] | None:
    """The call with a node that a tensor comes from, and which of its outputs it is, past what only hands it on."""
    while source is not None and isinstance(source[0], int):
        match = matches[source[0]]
        if match is not None:
            return match, source[1]
        source = next((held for other, held in calls[source[0]].operands if other == shape), None)
    return None


class _Trial:
    """Hooks for one run that select as they go, and remember where."""

    def __init__(self, model: nn.Module, runs: Sequence[Run], wanted: Wanted) -> None:
        self._model, self._wanted = model, wanted
        self._runs: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            self._runs[run.module].append(run)
        self._entered: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._handles: list[Any] = []
        self.before: dict[str, list[Selection]] = {}
        self.behind: dict[str, list[Selection]] = {}

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            if name in self._runs:
                self._watch(name, module)

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str, module: nn.Module) -> None:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            self._entered[name] += 1
            run = self._run(name, self._entered[name])
            return self._fitted((args, kwargs), () if run is None else run.inputs, name, self.before)

        def leave(module: nn.Module, args: Any, result: Any) -> Any:
            self._left[name] += 1
            run = self._run(name, self._left[name])
            return self._fitted(result, () if run is None else run.outputs, name, self.behind)

        self._handles += [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        ]

    def _run(self, name: str, count: int) -> Run | None:
        runs = self._runs[name]
        return runs[count - 1] if count <= len(runs) else None

    def _fitted(self, value: Any, known: Sequence[Leaf], name: str, notes: dict[str, list[Selection]]) -> Any:
        leaves = pytree.tree_leaves(value)
        found = [one for leaf in known if leaf[0] < len(leaves) for one in self._needed(leaves[leaf[0]], leaf)]
        if not found:
            return None
        noted = notes.setdefault(name, [])
        noted += [one for one in found if one not in noted]
        return _selected(value, found)

    def _needed(self, tensor: Any, leaf: Leaf) -> Iterator[Selection]:
        """Yield what has to be selected of a tensor that is as large as in the user's model."""
        place, shape, _ = leaf
        if not isinstance(tensor, Tensor) or tensor.ndim != len(shape):
            return
        for dim, kept in enumerate(self._wanted(leaf)):
            if kept is not None and tensor.shape[dim] == shape[dim]:
                yield Selection(place, dim, _period(kept))


def _selected(value: Any, selections: Sequence[Selection]) -> Any:
    leaves, structure = pytree.tree_flatten(value)
    for one in selections:
        leaves[one.place] = one(leaves[one.place])
    return pytree.tree_unflatten(leaves, structure)


def _period(kept: BoolArray) -> tuple[bool, ...]:
    """The shortest start of a mask that the mask repeats: a dimension of rows times heads repeats for each row."""
    for size in range(1, len(kept) + 1):
        if len(kept) % size == 0 and np.array_equal(np.tile(kept[:size], len(kept) // size), kept):
            return tuple(map(bool, kept[:size]))
    return tuple(map(bool, kept))
