"""Numbers that the example's run does not read: masks with holes take branches of a class that full ones do not.

A class may keep a number that it made of others, such as queries per group of keys, and read it in one branch alone.
The other branch is run with holes in the example's masks, and the rewritten program is the oracle there too.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn

from graphopt.capture_failure import Attempt, summary
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.proof.check import inputs_of, outputs_of
from graphopt.proof.unchanged import check_outputs
from graphopt.restoring.agreement import outputs_apart

Numbers = Mapping[str, int]
"""Integers of a module and of its direct parts, by name."""


@dataclass(frozen=True)
class _Stale:
    """An integer that is as it was in all modules of a class, and that is a quotient of two others there.

    Attributes:
        name: the attribute.
        values: what it becomes, by the module's name.
    """

    name: str
    values: Mapping[str, int]


def fit_branches(restored: nn.Module, model: nn.Module, program: Program) -> None:
    """Fit attributes that only inputs with holes in their masks read; warn where none fits.

    Nothing is done where the example has no mask of ones, or the user's model or the program does not take holes in it:
    what the program asks of its inputs, the class that comes back asks too.

    Args:
        restored: computes what the program does on the example; attributes of its modules are changed.
        model: the user's model.
        program: the oracle.
    """
    holed = with_holes(inputs_of(program))
    if holed is None:
        return
    with Attempt() as oracle:
        outputs_apart(model, holed)
        trial = _Trial(holed, outputs_of(program, holed), {tensor.dtype for tensor in program.parameters.values()})
    failure = trial.failure(restored) if oracle.failure is None else None
    if failure is None:
        return
    for stale in _candidates(model, restored):
        before = _put(restored, stale.name, stale.values)
        if trial.failure(restored) is None:
            return
        _put(restored, stale.name, before)
    warnings.warn(
        f"{type(model).__name__} was fitted to the example, and does not compute what the program does where a mask "
        f"has zeros: {summary(failure)}; capture with such a mask, or use result.module(), the graph form",
        stacklevel=4,
    )


@dataclass(frozen=True)
class _Trial:
    """A call with holes in its masks, and what it is to give.

    Attributes:
        inputs: the example with holes in the first row.
        wanted: outputs of the rewritten program.
        kinds: types of its tensors.
    """

    inputs: ExampleInputs
    wanted: Sequence[Tensor]
    kinds: Collection[torch.dtype]

    def failure(self, module: nn.Module) -> Exception | None:
        """Why a module does not run, or gives something else; None where it does."""
        with Attempt() as attempt:
            check_outputs(self.wanted, outputs_apart(module, self.inputs), self.kinds)
        return attempt.failure


def with_holes(inputs: ExampleInputs) -> ExampleInputs | None:
    """The example with the last position of the first row left out of every mask of ones; None without such a mask."""
    masks = [leaf for leaf in inputs.leaves() if isinstance(leaf, Tensor) and _is_full_mask(leaf)]

    def holed(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        if any(tensor.shape == mask.shape for mask in masks) and _is_full_mask(tensor):
            tensor[0, ..., -1] = 0
        return tensor

    return inputs.map_tensors(holed) if masks else None


def _is_full_mask(tensor: Tensor) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return whole and tensor.ndim > 1 and tensor.shape[-1] > 1 and bool((tensor == 1).all())


def _candidates(model: nn.Module, restored: nn.Module) -> Iterator[_Stale]:
    """Attributes that may be stale, with what they would be: each way to make them of two other numbers once."""
    alike: dict[type, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        alike[type(module)].append(name)
    copies = dict(restored.named_modules())
    originals = dict(model.named_modules())
    for names in alike.values():
        present = [name for name in names if name in copies]
        pairs = {name: (_numbers(originals[name]), _numbers(copies[name])) for name in present}
        yield from _quotients(pairs)


def _quotients(pairs: Mapping[str, tuple[Numbers, Numbers]]) -> Iterator[_Stale]:
    """Of modules of one class: numbers that did not change, as quotients of two that hold in all originals."""
    shared = set.intersection(*({*before} & {*after} for before, after in pairs.values())) if pairs else set()
    changed = sorted(name for name in shared if any(before[name] != after[name] for before, after in pairs.values()))
    kept = sorted(name for name in shared if "." not in name and name not in changed)
    seen = set()
    for name in kept:
        for top, bottom in permutations(sorted(shared - {name}), 2):
            if top not in changed and bottom not in changed:
                continue
            if not all(before[bottom] * before[name] == before[top] > before[bottom] for before, _ in pairs.values()):
                continue
            values = {path: after[top] // after[bottom] for path, (_, after) in pairs.items()}
            if (name, *values.values()) in seen or all(values[path] == pairs[path][1][name] for path in values):
                continue
            seen.add((name, *values.values()))
            yield _Stale(name, values)


def _numbers(module: nn.Module) -> Numbers:
    """Positive integers among the attributes of a module and of its direct parts."""
    parts = (("", module), *((f"{name}.", part) for name, part in module.named_children()))
    found = ((f"{prefix}{name}", value) for prefix, part in parts for name, value in vars(part).items())
    return {name: value for name, value in found if type(value) is int and value > 0}


def _put(module: nn.Module, name: str, values: Mapping[str, int]) -> dict[str, int]:
    """Give modules an attribute; return what they had."""
    modules = dict(module.named_modules())
    before = {path: getattr(modules[path], name) for path in values}
    for path, value in values.items():
        setattr(modules[path], name, value)
    return before
