"""Cuts: values of a program that a later step may take from a cache instead of computing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from graphopt.errors import PlanError, SpecError

CutKind = Literal["value", "residual"]


@dataclass(frozen=True)
class Cut:
    """One place where a program is cut.

    A value cut stores ``v`` and later reads it: ``v := cached(v)``. A residual cut stores how far ``v`` is from a value
    ``u`` before it and later adds that to a fresh ``u``: ``v := u + cached(v - u)``.

    Attributes:
        value: name of the node ``v``.
        base: name of the node ``u`` of a residual cut; None for a value cut.
    """

    value: str
    base: str | None = None

    @property
    def kind(self) -> CutKind:
        """Whether the value itself is cached, or its residual."""
        return "value" if self.base is None else "residual"

    def __str__(self) -> str:
        """Return the text form: ``v``, or ``u:v`` for a residual cut."""
        return self.value if self.base is None else f"{self.base}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Cut:
        """Read the text form.

        Raises:
            SpecError: it is neither ``v`` nor ``u:v``.
        """
        first, separator, second = text.partition(":")
        if not first or (separator and not second) or ":" in second:
            raise SpecError(
                f"found the cut {text!r}, wanted a value such as add_20, or base:value such as add_3:add_20"
            )
        return cls(second, first) if separator else cls(first)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"value": self.value, "base": self.base}

    @classmethod
    def from_dict(cls, data: Any) -> Cut:
        """Read the JSON form.

        Raises:
            PlanError: it is none.
        """
        if not isinstance(data, dict) or not isinstance(data.get("value"), str):
            raise PlanError(f"found the cut {data!r}, wanted an object with a value and a base")
        base = data.get("base")
        return cls(data["value"], None if base is None else str(base))
