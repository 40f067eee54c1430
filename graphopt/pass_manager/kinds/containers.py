"""Kinds of values made of other kinds: lists and unions."""

from dataclasses import dataclass

from graphopt.errors import SpecError
from graphopt.pass_manager.kinds.base import Kind
from graphopt.pass_manager.syntax import Items, Text, Value


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of any length, a tuple in Python.

    Attributes:
        item: Kind of its items.
    """

    rank = 5
    item: Kind

    def __str__(self) -> str:
        return f"a list in [ ] of which each is {self.item}"

    def read(self, value: Value) -> object:
        """Accept a list in brackets."""
        if not isinstance(value, Items):
            raise self.misread(value)
        return tuple(self.item.read(item) for item in value.items)

    def check(self, value: object) -> object:
        """Accept a tuple or a list."""
        if not isinstance(value, tuple | list):
            raise self.misfit(value)
        return tuple(self.item.check(item) for item in value)

    def write(self, value: object) -> Value:
        """Return the list in brackets."""
        items = value if isinstance(value, tuple) else ()
        return Items(tuple(self.item.write(item) for item in items))


@dataclass(frozen=True)
class Record(Kind):
    """A list of a set length, a tuple in Python.

    Attributes:
        items: Kinds of its items.
    """

    rank = 5
    items: tuple[Kind, ...]

    def __str__(self) -> str:
        return f"a list of {len(self.items)}: [{', '.join(map(str, self.items))}]"

    def read(self, value: Value) -> object:
        """Accept a list in brackets of this length."""
        if not isinstance(value, Items) or len(value.items) != len(self.items):
            raise self.misread(value)
        return tuple(kind.read(item) for kind, item in zip(self.items, value.items, strict=True))

    def check(self, value: object) -> object:
        """Accept a tuple or a list of this length."""
        if not isinstance(value, tuple | list) or len(value) != len(self.items):
            raise self.misfit(value)
        return tuple(kind.check(item) for kind, item in zip(self.items, value, strict=True))

    def write(self, value: object) -> Value:
        """Return the list in brackets."""
        items = value if isinstance(value, tuple) else ()
        return Items(tuple(kind.write(item) for kind, item in zip(self.items, items, strict=True)))


@dataclass(frozen=True)
class Either(Kind):
    """A union; the first of its kinds that fits decides.

    Attributes:
        kinds: Kinds by rising rank.
    """

    kinds: tuple[Kind, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.kinds))

    def read(self, value: Value) -> object:
        """Accept what the first fitting kind accepts; blame the item of a list where only an item is wrong."""
        deepest = self.misread(value)
        for kind in self.kinds:
            try:
                return kind.read(value)
            except SpecError as error:
                deepest = max(deepest, error, key=lambda known: known.position or 0)
        raise deepest

    def check(self, value: object) -> object:
        """Accept what the first fitting kind accepts."""
        for kind in self.kinds:
            try:
                return kind.check(value)
            except SpecError:
                continue
        raise self.misfit(value)

    def write(self, value: object) -> Value:
        """Return the text of the first fitting kind, in quotes where another kind would claim the word."""
        kind = next(kind for kind in self.kinds if _fits(kind, value))
        written = kind.write(value)
        if isinstance(value, str) and self.read(written) != value:
            return Text(value)
        return written


def _fits(kind: Kind, value: object) -> bool:
    try:
        checked = kind.check(value)
    except SpecError:
        return False
    return type(checked) is type(value)
