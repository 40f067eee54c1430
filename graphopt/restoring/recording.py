"""What a model's own code calls, with the numbers that it passes."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphopt.capture_failure import TORCH
from graphopt.example_inputs import ExampleInputs
from graphopt.preparation import as_captured
from graphopt.restoring.tracked import Size, TrackedInt, watching
from graphopt.values import tensors_in

OWN = f"{Path(__file__).parent}/"
Shapes: TypeAlias = tuple[tuple[int, ...], ...]
Source: TypeAlias = tuple[int | str, int]
"""Number of the call that returned a tensor, or a parameter's name; which of the tensors that the call returned."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a torch function.

    Attributes:
        name: the function's name.
        module: dotted name of the module whose code calls it.
        line: deepest line of a ``forward`` outside torch, as ``file:line``.
        spot: line that calls the function, as ``file:line``.
        numbers: integers among the arguments, in order, tracked where they came from an attribute or a tensor's size.
        floats: other numbers among the arguments.
        shapes: shape of every tensor that it returns.
        operands: shapes of the tensors among the arguments, with what returned each.
    """

    name: str
    module: str
    line: str
    spot: str
    numbers: tuple[int, ...]
    floats: tuple[float, ...]
    shapes: Shapes
    operands: tuple[tuple[tuple[int, ...], Source | None], ...] = ()


Leaf: TypeAlias = tuple[int, tuple[int, ...], Source | None]
"""Place of a tensor among the leaves of inputs or outputs, its shape, and what returned it."""


@dataclass(frozen=True, eq=False)
class Run:
    """One call of a module.

    Attributes:
        module: its dotted name.
        inputs: the tensors that it was given.
        outputs: the tensors that it returned.
        structure: structure of what it returned.
    """

    module: str
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    structure: pytree.TreeSpec


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two numbers that the model's code found equal.

    Attributes:
        left: one number.
        right: the other.
        spot: the line that compares, as ``file:line``.
    """

    left: int
    right: int
    spot: str


class Recorder(TorchFunctionMode):
    """Writes down every call that returns tensors.

    Args:
        names: names of parameters and buffers whose sizes are tracked, by identity; None tracks no sizes.
        gradients: whether the model's code takes gradients of what it computes.

    Attributes:
        calls: what was called so far.
        comparisons: numbers found equal so far.
        runs: modules that were called and ended, in the order in which they ended.
    """

    def __init__(self, names: Mapping[int, str] | None = None, *, gradients: bool = False) -> None:
        super().__init__()
        self.gradients = gradients
        self.calls: list[Call] = []
        self.comparisons: list[Comparison] = []
        self.runs: list[Run] = []
        self._stack: list[tuple[str, tuple[Leaf, ...]]] = [("", ())]
        self._names = names
        self._sources: dict[int, tuple[weakref.ref[Tensor], Source]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function and write it down; sizes that it returns are tracked."""
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.multi_head_attention_forward:
            self._write(func, args, kwargs or {}, shapes_of(result[0]))
            self._note(result[0])
            return result
        if func in _SIZES:
            return self._tracked_sizes(result, args, kwargs or {})
        shapes = shapes_of(result)
        if shapes:
            self._write(func, args, kwargs or {}, shapes)
            self._note(result)
        return result

    def enter(self, name: str, leaves: Sequence[Any]) -> None:
        """Write down that a module is called with these leaves."""
        self._stack.append((name, self._known(leaves)))

    def leave(self, result: Any) -> None:
        """Write down that the innermost module returns something, or raises."""
        name, inputs = self._stack.pop()
        leaves, structure = pytree.tree_flatten(result)
        self.runs.append(Run(name, inputs, self._known(leaves), structure))

    def _known(self, leaves: Sequence[Any]) -> tuple[Leaf, ...]:
        return tuple(
            (place, tuple(map(int, leaf.shape)), self._source(leaf))
            for place, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor)
        )

    def compared(self, left: int, right: int) -> None:
        """Write down two numbers that were found equal."""
        self.comparisons.append(Comparison(left, right, _lines(sys._getframe())[1]))

    def _write(self, func: Any, args: Any, kwargs: Any, shapes: Shapes) -> None:
        line, spot = _lines(sys._getframe())
        leaves = list(_leaves((args, kwargs)))
        numbers = tuple(leaf for leaf in leaves if isinstance(leaf, int) and not isinstance(leaf, bool))
        floats = tuple(leaf for leaf in leaves if isinstance(leaf, float))
        operands = tuple((tuple(leaf.shape), self._source(leaf)) for leaf in leaves if isinstance(leaf, Tensor))
        name = str(getattr(func, "__name__", func))
        self.calls.append(Call(name, self._stack[-1][0], line, spot, numbers, floats, shapes, operands))

    def _note(self, result: Any) -> None:
        tensors = [result] if isinstance(result, Tensor) else tensors_in(list(result))
        for output, tensor in enumerate(tensors):
            self._sources[id(tensor)] = (weakref.ref(tensor), (len(self.calls) - 1, output))

    def _source(self, tensor: Tensor) -> Source | None:
        """What returned a tensor, or the name that a parameter has; None for an input."""
        reference, source = self._sources.get(id(tensor), (None, None))
        if reference is not None and reference() is tensor:
            return source
        name = (self._names or {}).get(id(tensor))
        return None if name is None else (name, 0)

    def _tracked_sizes(self, result: Any, args: Any, kwargs: Any) -> Any:
        source = self._source(args[0])
        if self._names is None or source is None:
            return result
        if isinstance(result, torch.Size):
            return torch.Size([TrackedInt(size, Size(*source, dim)) for dim, size in enumerate(result)])
        dim = [*args[1:], *kwargs.values()][0]
        return TrackedInt(result, Size(*source, int(dim) % args[0].ndim)) if isinstance(result, int) else result


_SIZES = (inspect.getattr_static(Tensor, "shape").__get__, Tensor.size)


def record(model: nn.Module, inputs: ExampleInputs, recorder: Recorder) -> Any:
    """Run a model as the capture ran it, writing down what it calls.

    Args:
        model: in evaluation form; it is given hooks, and nobody else may use it.
        inputs: what it is called with.
        recorder: where the calls go, also where the model raises.

    Returns:
        What the model returns.
    """
    for name, module in model.named_modules():
        _watch(name, module, recorder)
    inputs = inputs.map_tensors(torch.clone)
    with torch.enable_grad(), as_captured(), torch.random.fork_rng(devices=[]), watching(recorder.compared):
        torch.manual_seed(0)
        with nullcontext() if recorder.gradients else torch._C._AutoDispatchBelowAutograd(), recorder:
            return model(*inputs.args, **inputs.kwargs)


def shapes_of(value: Any) -> Shapes:
    """The shapes of the tensors that a call returned."""
    if isinstance(value, Tensor):
        return (tuple(map(int, value.shape)),)
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return tuple(
            tuple(map(int, leaf.shape)) for leaf in pytree.tree_leaves(list(value)) if isinstance(leaf, Tensor)
        )
    return ()


def _watch(name: str, module: nn.Module, recorder: Recorder) -> None:
    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        recorder.enter(name, pytree.tree_leaves((args, kwargs)))

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        recorder.leave(result)

    module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    module.register_forward_hook(leave, always_call=True)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the leaves of arguments in order; of a slice, what it starts and stops at."""
    if isinstance(value, slice):
        yield from (leaf for leaf in (value.start, value.stop) if leaf is not None)
    elif isinstance(value, dict):
        for held in value.values():
            yield from _leaves(held)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for held in value:
            yield from _leaves(held)
    else:
        yield value


def _lines(frame: FrameType | None) -> tuple[str, str]:
    """The deepest line of a forward outside torch, and the deepest line outside torch."""
    spot = ""
    while frame is not None:
        code = frame.f_code
        if code is record.__code__:
            break
        if not code.co_filename.startswith((TORCH, OWN, "<")):
            here = f"{code.co_filename}:{frame.f_lineno}"
            spot = spot or here
            if code.co_name == "forward":
                return here, spot
        frame = frame.f_back
    return "", spot
