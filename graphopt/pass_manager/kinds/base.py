"""What every kind of value can do."""

from abc import ABC, abstractmethod
from typing import ClassVar

from graphopt.errors import SpecError
from graphopt.pass_manager.syntax import Value


class Kind(ABC):
    """A type that an option may have.

    Attributes:
        rank: Place in a union; the kind of the lowest rank that fits a word reads it.
    """

    rank: ClassVar[int] = 0

    @abstractmethod
    def __str__(self) -> str:
        """Say in words what is wanted."""

    @abstractmethod
    def read(self, value: Value) -> object:
        """Return the Python value of a value in text.

        Raises:
            SpecError: The text does not fit; its position is set, its text is left to the caller.
        """

    @abstractmethod
    def check(self, value: object) -> object:
        """Return a Python value, converted where nothing is lost (a list to a tuple, an integer to a float).

        Raises:
            SpecError: The value does not fit.
        """

    @abstractmethod
    def write(self, value: object) -> Value:
        """Return the text of a value that `check` accepted."""

    def misread(self, value: Value) -> SpecError:
        """Return the error for a value in text that does not fit."""
        return SpecError(f"found {value}, wanted {self}", None, value.position)

    def misfit(self, value: object) -> SpecError:
        """Return the error for a Python value that does not fit."""
        return SpecError(f"found {value!r}, wanted {self}")
