"""Kinds of values that are one word, or text in quotes."""

import math
import re
from dataclasses import dataclass
from numbers import Integral, Real

from graphopt.pass_manager.kinds.base import Kind
from graphopt.pass_manager.syntax import Atom, Items, Text, Value, is_atom

_INTEGER = re.compile(r"[+-]?[0-9]+")


class Nothing(Kind):
    """None, written `none`."""

    def __str__(self) -> str:
        return "none"

    def read(self, value: Value) -> object:
        """Accept the word `none`."""
        if not isinstance(value, Atom) or value.text != "none":
            raise self.misread(value)
        return None

    def check(self, value: object) -> object:
        """Accept None."""
        if value is not None:
            raise self.misfit(value)
        return None

    def write(self, value: object) -> Value:
        """Return the word `none`."""
        return Atom("none")


class Boolean(Kind):
    """A truth value, written `true` or `false`."""

    rank = 1

    def __str__(self) -> str:
        return "true or false"

    def read(self, value: Value) -> object:
        """Accept the words `true` and `false`."""
        if not isinstance(value, Atom) or value.text not in {"true", "false"}:
            raise self.misread(value)
        return value.text == "true"

    def check(self, value: object) -> object:
        """Accept True and False."""
        if not isinstance(value, bool):
            raise self.misfit(value)
        return value

    def write(self, value: object) -> Value:
        """Return `true` or `false`."""
        return Atom("true" if value else "false")


@dataclass(frozen=True)
class Choice(Kind):
    """One of the values of a `Literal`.

    Attributes:
        values: What may be chosen: texts, integers, truth values or None.
    """

    rank = 2
    values: tuple[object, ...]

    def __str__(self) -> str:
        words = [str(self.write(value)) for value in self.values]
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"

    def read(self, value: Value) -> object:
        """Accept the text of one of the values."""
        for candidate in self.values:
            if value == self.write(candidate) or (isinstance(value, Text) and value.text == candidate):
                return candidate
        raise self.misread(value)

    def check(self, value: object) -> object:
        """Accept one of the values."""
        for candidate in self.values:
            if type(value) is type(candidate) and value == candidate:
                return candidate
        raise self.misfit(value)

    def write(self, value: object) -> Value:
        """Return the word for a value, in quotes where it is no word."""
        if isinstance(value, str):
            return Atom(value) if is_atom(value) else Text(value)
        return Atom(str(value).lower())


class Integer(Kind):
    """A whole number."""

    rank = 3

    def __str__(self) -> str:
        return "an integer"

    def read(self, value: Value) -> object:
        """Accept digits with an optional sign."""
        if not isinstance(value, Atom) or _INTEGER.fullmatch(value.text) is None:
            raise self.misread(value)
        try:
            return int(value.text)
        except ValueError:  # Python refuses thousands of digits
            raise self.misread(value) from None

    def check(self, value: object) -> object:
        """Accept any integer but a truth value."""
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise self.misfit(value)
        return int(value)

    def write(self, value: object) -> Value:
        """Return the digits."""
        return Atom(str(value))


class Number(Kind):
    """A floating-point number; infinity is one, not-a-number is none."""

    rank = 4

    def __str__(self) -> str:
        return "a number"

    def read(self, value: Value) -> object:
        """Accept what `float` accepts, except not-a-number."""
        if not isinstance(value, Atom):
            raise self.misread(value)
        try:
            number = float(value.text)
        except ValueError:
            raise self.misread(value) from None
        if math.isnan(number):
            raise self.misread(value)
        return number

    def check(self, value: object) -> object:
        """Accept any real number but a truth value and not-a-number."""
        if isinstance(value, bool) or not isinstance(value, Real):
            raise self.misfit(value)
        try:
            number = float(value)
        except OverflowError:
            raise self.misfit(value) from None
        if math.isnan(number):
            raise self.misfit(value)
        return number

    def write(self, value: object) -> Value:
        """Return the shortest digits that give the same number again."""
        return Atom(repr(value))


class String(Kind):
    """Text, in quotes where it is no word."""

    rank = 6

    def __str__(self) -> str:
        return "text"

    def read(self, value: Value) -> object:
        """Accept a word or text in quotes."""
        if isinstance(value, Items):
            raise self.misread(value)
        return value.text

    def check(self, value: object) -> object:
        """Accept a string."""
        if not isinstance(value, str):
            raise self.misfit(value)
        return value

    def write(self, value: object) -> Value:
        """Return the word, or the text in quotes."""
        text = str(value)
        return Atom(text) if is_atom(text) else Text(text)
