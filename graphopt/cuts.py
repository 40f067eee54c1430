"""Cuts: values of a program that a later step may take from a cache instead of computing them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from graphopt.errors import PlanError, SpecError

CutKind = Literal["value", "residual", "part"]


@dataclass(frozen=True)
class Cut:
    """One place where a program is cut.

    A value cut stores ``v`` and later reads it: ``v := cached(v)``. A residual cut stores how far ``v`` is from a value
    ``u`` before it and later adds that to a fresh ``u``: ``v := u + cached(v - u)``. A part cut, where ``v`` sums over
    the channels of a concatenation of ``a`` and ``b``, stores what ``a`` adds to the sum and later adds that to what a
    fresh ``b`` adds: ``v := cached(v_a) + v_b``.

    Attributes:
        value: name of the node ``v``.
        base: name of the node ``u`` of a residual cut; None for another one.
        part: name of the node ``a`` of a part cut; None for another one.
    """

    value: str
    base: str | None = None
    part: str | None = None

    @property
    def kind(self) -> CutKind:
        """Whether the value itself is cached, its residual, or what one operand adds to it."""
        if self.part is not None:
            return "part"
        return "value" if self.base is None else "residual"

    def __str__(self) -> str:
        """Return the text form: ``v``, ``u:v`` for a residual cut, or ``a>v`` for a part cut."""
        if self.part is not None:
            return f"{self.part}>{self.value}"
        return self.value if self.base is None else f"{self.base}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Cut:
        """Read the text form.

        Raises:
            SpecError: it is neither ``v`` nor ``u:v`` nor ``a>v``.
        """
        first, *rest = re.split("([:>])", text)
        if not first or len(rest) not in (0, 2) or "" in rest:
            raise SpecError(
                f"found the cut {text!r}, wanted a value such as add_20, base:value such as add_3:add_20, or "
                "operand>value such as add_71>conv2d_66"
            )
        if not rest:
            return cls(first)
        return cls(rest[1], base=first) if rest[0] == ":" else cls(rest[1], part=first)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"value": self.value, "base": self.base, "part": self.part}

    @classmethod
    def from_dict(cls, data: Any) -> Cut:
        """Read the JSON form.

        Raises:
            PlanError: it is none.
        """
        if not isinstance(data, dict) or not isinstance(data.get("value"), str):
            raise PlanError(f"found the cut {data!r}, wanted an object with a value and a base")
        names = [None if data.get(key) is None else str(data[key]) for key in ("base", "part")]
        if None not in names:
            raise PlanError(f"found the cut {data!r}, wanted a base or a part, not both")
        return cls(data["value"], *names)
