"""A random module while it is written: every line is run as it is added, so that the text is code that runs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from graphopt.dependency.registry import rule_table

BATCHES = (3, 5)
ROWS, FEATURES = 4, 5
LARGEST = 1800
HEIGHT = 40.0
NAME = re.compile(r"\bv\d+\b")
Outputs: TypeAlias = list[Tensor] | tuple[Tensor, ...]
PREAMBLE = """\
import torch
from torch import nn
from torch.nn import functional

from graphopt.dependency.registry import rule_table

RULES = rule_table()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
"""
FORWARD = "    def forward(self, x):"


@dataclass(frozen=True)
class Value:
    """A tensor of the module: its name in the text, and its shape without the batch."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        return self.name


@dataclass
class Picks:
    """Numbers that settle every choice of one step; where they run out, the first choice is taken."""

    numbers: Sequence[int]
    taken: int = 0

    def below(self, limit: int) -> int:
        number = self.numbers[self.taken] if self.taken < len(self.numbers) else 0
        self.taken += 1
        return number % limit

    def one(self, options: Sequence[object]) -> object:
        return options[self.below(len(options))]


@dataclass
class Draft:
    """Lines of a module's ``__init__`` and ``forward``, and the values that are alive between them.

    Attributes:
        values: what later lines may read, the newest last.
        maps: names of the maps that may be used again, by class, width in and width out.
        drawn: rules whose samples stand in the text.
    """

    values: list[Value] = field(default_factory=list)
    maps: dict[tuple[object, ...], str] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)
    _members: list[str] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)
    _names: int = 0
    _spaces: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        holder = SimpleNamespace()
        shared = {"torch": torch, "nn": nn, "functional": nn.functional, "RULES": rule_table(), "self": holder}
        self._spaces = [{**shared, "x": torch.randn(batch, ROWS, FEATURES)} for batch in BATCHES]

    # ------------------------------------------------------------------ reading

    def value(self, picks: Picks, where: Callable[[Value], bool] = lambda _: True) -> Value | None:
        """One of the newest four, or any; None where nothing fits."""
        fitting = [value for value in reversed(self.values) if where(value)]
        number = picks.below(40)
        if not fitting:
            return None
        return fitting[number % (4 if number < 30 and len(fitting) > 4 else len(fitting))]

    @property
    def operations(self) -> int:
        return len(self._lines)

    # ------------------------------------------------------------------ writing

    def member(self, code: str) -> str:
        """A new attribute; its name in the text."""
        name = f"self.m{len(self._members)}"
        line = f"{name} = {code}"
        exec(line, self._spaces[0])
        self._members.append(line)
        return name

    def parameter(self, shape: Sequence[int]) -> str:
        return self.member(f"nn.Parameter(0.5 * torch.randn{tuple(shape)})")

    def linear(self, inner: int, outer: int, *, again: bool = False) -> str:
        """A linear map, or one of this size that is there already."""
        key = (nn.Linear, inner, outer)
        if not again or key not in self.maps:
            self.maps[key] = self.member(f"nn.Linear({inner}, {outer})")
        return self.maps[key]

    def add(self, expression: str, before: Sequence[str] = ()) -> list[Value]:
        """Write a line; nothing is written, and no value made, where it does not run or the batch is lost.

        Args:
            expression: code whose value is a tensor or several.
            before: statements that come first; they may make names of their own.
        """
        found = [_evaluated(expression, before, dict(space)) for space in self._spaces]
        if any(outputs is None for outputs in found) or not _alike(*found):
            return []
        lines, made = self._named(expression, found)
        self._lines += [*before, *lines]
        self.values += made
        return made

    def _named(self, expression: str, found: list[Outputs]) -> tuple[list[str], list[Value]]:
        """Lines that name every output and scale those that are large."""
        names = [f"v{self._names + place}" for place in range(len(found[0]))]
        self._names += len(names)
        target = "".join(f"{name}, " for name in names).strip() if isinstance(found[0], tuple) else names[0]
        lines = [f"{target} = {expression}"]
        made = []
        for place, name in enumerate(names):
            tensors = [outputs[place] for outputs in found]
            if not tensors[0].is_floating_point():
                continue
            height = max(float(tensor.detach().abs().max()) for tensor in tensors)
            if height > HEIGHT:
                factor = 2.0 ** -int(torch.tensor(height).log2().item())
                lines.append(f"{name} = {name} * {factor!r}")
                tensors = [tensor * factor for tensor in tensors]
            for space, tensor in zip(self._spaces, tensors, strict=True):
                space[name] = tensor
            made.append(Value(name, tuple(tensors[0].shape[1:])))
        return lines, made

    def fitted(self, value: Value, shape: tuple[int, ...]) -> Value | None:
        """A value of a shape, made of the given one."""
        if value.shape == shape:
            return value
        size, wanted = prod(value.shape), prod(shape)
        sizes = ", ".join(map(str, (-1, *shape)))
        if size == wanted:
            made = self.add(f"{value}.reshape({sizes})")
        elif value.rank and shape and value.shape[:-1] == shape[:-1]:
            made = self.add(f"{self.linear(value.shape[-1], shape[-1])}({value})")
        else:
            made = self.add(f"{self.linear(size, wanted)}({flat(value)}).reshape({sizes})")
        return made[0] if made else None

    # ------------------------------------------------------------------- the end

    def unread(self) -> list[Value]:
        """Values that no line reads."""
        read = {name for line in self._lines for name in NAME.findall(line.partition("=")[2])}
        return [value for value in self.values if value.name not in read]

    def source(self) -> str:
        """The module; every value that nothing reads goes into an output of its own."""
        unread = self.unread()
        heads = [f"self.h{place} = nn.Linear({prod(value.shape)}, 2)" for place, value in enumerate(unread)]
        outputs = [f"    self.h{place}({flat(value)}.float())," for place, value in enumerate(unread)]
        read = {name for line in self._lines for name in re.findall(r"self\.m\d+", line)}
        members = [line for line in self._members if line.partition(" ")[0] in read]
        body = [*self._lines, "return (", *outputs, ")"]
        return "\n".join([PREAMBLE.rstrip(), *_indented([*members, *heads]), "", FORWARD, *_indented(body), ""])


def flat(value: Value) -> str:
    return f"{value}.reshape(-1, 1)" if not value.rank else str(value) if value.rank == 1 else f"{value}.flatten(1)"


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"        {line}" for line in lines]


def _evaluated(expression: str, before: Sequence[str], space: dict[str, object]) -> Outputs | None:
    """What an expression makes, a list for one tensor and a tuple for several; None where that is something else."""
    try:
        for line in before:
            exec(line, space)
        out = eval(expression, space)
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError, AssertionError):
        return None
    outputs: Outputs = [out] if isinstance(out, Tensor) else tuple(out) if isinstance(out, tuple | list) else []
    batch = len(space["x"])
    fine = [isinstance(item, Tensor) and item.ndim > 0 and len(item) == batch and _tame(item) for item in outputs]
    return outputs if fine and all(fine) else None


def _tame(tensor: Tensor) -> bool:
    """Whether a tensor is small enough and finite."""
    return 0 < tensor.numel() <= LARGEST * len(tensor) and not tensor.is_complex() and bool(tensor.isfinite().all())


def _alike(first: Outputs | None, second: Outputs | None) -> bool:
    """Whether outputs at two batch sizes differ in the batch alone."""
    one, other = ([(item.shape[1:], item.dtype) for item in outputs or ()] for outputs in (first, second))
    return one == other and any(kind.is_floating_point for _, kind in one)
