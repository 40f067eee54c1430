"""Integers that remember which attribute they came from, and what was computed from them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

Step: TypeAlias = tuple[str, Any]
"""One step from an object to what it holds: ``("attribute", name)`` or ``("item", key)``."""


@dataclass(frozen=True)
class Place:
    """Where a module keeps a number.

    Attributes:
        module: dotted name of the module, empty for the model itself.
        path: the steps from the module to the number.
    """

    module: str
    path: tuple[Step, ...]

    def __str__(self) -> str:
        steps = "".join(f".{key}" if kind == "attribute" else f"[{key!r}]" for kind, key in self.path)
        return f"{self.module}{steps}" if self.module else steps.removeprefix(".")


@dataclass(frozen=True)
class Size:
    """A size of a tensor: it follows by itself.

    Attributes:
        source: number of the call that returned the tensor, or the name of the parameter that it is.
        output: which of the tensors that the call returned.
        dim: the dimension.
    """

    source: int | str
    output: int
    dim: int

    def __str__(self) -> str:
        return f"shape[{self.dim}]"


@dataclass(frozen=True)
class Term:
    """What a number was computed from.

    Attributes:
        symbol: the operator, as Python writes it.
        left: first operand: a place, a size, a plain number or a term.
        right: second operand.
    """

    symbol: str
    left: Expression
    right: Expression

    def __str__(self) -> str:
        return f"({self.left} {self.symbol} {self.right})"


Expression: TypeAlias = Place | Size | int | Term

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


_WATCHERS: list[Callable[[int, int], None]] = []


@contextmanager
def watching(watcher: Callable[[int, int], None]) -> Iterator[None]:
    """Tell a watcher of every pair of numbers that a comparison finds equal, one of them tracked.

    Args:
        watcher: called with both.
    """
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.remove(watcher)


_APART: list[Hashed] = []


@dataclass
class Hashed:
    """Whether a tracked number was hashed.

    Attributes:
        any: whether one was.
    """

    any: bool = False


@contextmanager
def told_apart() -> Iterator[Hashed]:
    """Hash tracked numbers by where they came from, so that no cache gives for them what it gave for plain ones.

    Libraries keep results by the numbers that led to them; a plain number from there would hide where it came from,
    and a tracked one would stay there. A table whose keys are plain numbers does not find tracked ones meanwhile.
    """
    hashed = Hashed()
    _APART.append(hashed)
    try:
        yield hashed
    finally:
        _APART.remove(hashed)


class TrackedInt(int):
    """An integer that knows the expression it is the value of.

    Attributes:
        expression: attributes and plain numbers that it was computed from.
    """

    expression: Expression

    def __new__(cls, value: int, expression: Expression) -> Self:
        """Make a number with its expression."""
        number = super().__new__(cls, value)
        number.expression = expression
        return number

    def __deepcopy__(self, memo: dict[int, Any]) -> TrackedInt:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int(self),))

    def __add__(self, other: int) -> Any:
        return _combined("+", self, other)

    def __radd__(self, other: int) -> Any:
        return _combined("+", other, self)

    def __sub__(self, other: int) -> Any:
        return _combined("-", self, other)

    def __rsub__(self, other: int) -> Any:
        return _combined("-", other, self)

    def __mul__(self, other: int) -> Any:
        return _combined("*", self, other)

    def __rmul__(self, other: int) -> Any:
        return _combined("*", other, self)

    def __floordiv__(self, other: int) -> Any:
        return _combined("//", self, other)

    def __rfloordiv__(self, other: int) -> Any:
        return _combined("//", other, self)

    def __mod__(self, other: int) -> Any:
        return _combined("%", self, other)

    def __rmod__(self, other: int) -> Any:
        return _combined("%", other, self)

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) if isinstance(other, int) else NotImplemented
        if equal is True and isinstance(other, int):
            for watcher in _WATCHERS:
                watcher(self, other)
        return equal

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return NotImplemented if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        if not _APART:
            return int.__hash__(self)
        _APART[-1].any = True
        return hash(self.expression)

    def __neg__(self) -> Any:
        return _combined("-", 0, self)

    def __pos__(self) -> int:
        return self


def expression_of(number: int) -> Expression:
    """The expression of a number; a plain one is its own."""
    return number.expression if isinstance(number, TrackedInt) else int(number)


def places_in(expression: Expression) -> Iterator[Place]:
    """Yield every place that an expression reads."""
    if isinstance(expression, Place):
        yield expression
    elif isinstance(expression, Term):
        yield from places_in(expression.left)
        yield from places_in(expression.right)


def sizes_in(expression: Expression) -> Iterator[Size]:
    """Yield every size of a tensor that an expression reads."""
    if isinstance(expression, Size):
        yield expression
    elif isinstance(expression, Term):
        yield from sizes_in(expression.left)
        yield from sizes_in(expression.right)


def evaluate(expression: Expression, values: Callable[[Place | Size], int]) -> int:
    """The value of an expression.

    Args:
        expression: what is computed.
        values: the number at each place, and each size.

    Raises:
        ZeroDivisionError: a divisor is zero.
    """
    if isinstance(expression, Place | Size):
        return values(expression)
    if isinstance(expression, Term):
        return OPERATIONS[expression.symbol](evaluate(expression.left, values), evaluate(expression.right, values))
    return expression


def _combined(symbol: str, left: Any, right: Any) -> Any:
    """The number that two operands give; of a float or anything else, what plain integers would give."""
    if not isinstance(left, int) or not isinstance(right, int):
        return NotImplemented
    value = OPERATIONS[symbol](int(left), int(right))
    return TrackedInt(value, Term(symbol, expression_of(left), expression_of(right)))
