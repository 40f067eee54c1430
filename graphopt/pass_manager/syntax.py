"""Syntax tree of a pipeline's text; `str` of a node is its text.

Positions do not take part in comparison: two trees are equal where they say the same.
"""

import re
from dataclasses import dataclass, field

_WORD = re.compile(r'[^,{}\[\]"=\s]+')


@dataclass(frozen=True)
class Atom:
    """A word without quotes.

    Attributes:
        text: The word.
        position: Where it starts in the text it was read from.
    """

    text: str
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Text:
    """Text in quotes, which is never read as a number or a truth value.

    Attributes:
        text: What stands between the quotes, escapes undone.
        position: Where its first quote stands in the text it was read from.
    """

    text: str
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        escaped = self.text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'


@dataclass(frozen=True)
class Items:
    """A list in square brackets.

    Attributes:
        items: The values in it.
        position: Where its opening bracket stands in the text it was read from.
    """

    items: "tuple[Value, ...]"
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"[{','.join(map(str, self.items))}]"


Value = Atom | Text | Items
"""What may stand to the right of an equals sign."""


@dataclass(frozen=True)
class Option:
    """One option of a pass.

    Attributes:
        key: Its name.
        value: Its value, or None for a bare key.
        position: Where the key starts in the text it was read from.
    """

    key: str
    value: Value | None = None
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"


@dataclass(frozen=True)
class PassSpec:
    """One pass of a pipeline's text.

    Attributes:
        name: Its name in the table of passes.
        options: Its options in the order written.
        position: Where the name starts in the text it was read from.
    """

    name: str
    options: tuple[Option, ...] = ()
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}{{{','.join(map(str, self.options))}}}"


def is_atom(text: str) -> bool:
    """Tell whether text may be written without quotes."""
    return _WORD.fullmatch(text) is not None
