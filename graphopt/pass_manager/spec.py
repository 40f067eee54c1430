"""The text form of a pipeline: what `parse` reads, `str` of the result prints.

    pipeline = pass { "," pass }
    pass     = name [ "{" [ option { "," option } ] "}" ]
    option   = key "=" value | key                            a bare key is true
    value    = atom | "[" [ value { "," value } ] "]" | '"' text '"'
    name     = letter { letter | digit | "-" }
    key      = letter { letter | digit | "_" }
    atom     = anything without , { } [ ] " = or space

Space is allowed between any two of these. In quoted text a backslash goes before a quote and before a backslash.
Which type a value has is not said here: a kind reads it, by the annotation of the option.
"""

import re

from graphopt.errors import SpecError
from graphopt.pass_manager.syntax import Atom, Items, Option, PassSpec, Text, Value

_SPACE = re.compile(r"\s*")
_ATOM = re.compile(r'[^,{}\[\]"=\s]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BAD_ESCAPE = re.compile(r'\\[^"\\]', re.DOTALL)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def parse(text: str) -> tuple[PassSpec, ...]:
    """Read a pipeline's text.

    Args:
        text: At least one pass, in the grammar at the top of this file.

    Raises:
        SpecError: The text is not in the grammar; the caret stands under the first character that does not fit.
    """
    reader = _Reader(text)
    passes = [reader.pass_()]
    while not reader.at_end():
        reader.expect(",", wanted="',' and another pass, or the end")
        passes.append(reader.pass_())
    return tuple(passes)


class _Reader:
    """Recursive descent over one text: each method reads what it is named after and moves on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.skip_space()

    def skip_space(self) -> None:
        space = _SPACE.match(self.text, self.position)
        self.position = space.end() if space else self.position

    def at_end(self) -> bool:
        return self.position == len(self.text)

    def sees(self, character: str) -> bool:
        return self.text.startswith(character, self.position)

    def accept(self, character: str) -> bool:
        if not self.sees(character):
            return False
        self.position += 1
        self.skip_space()
        return True

    def expect(self, character: str, wanted: str) -> None:
        if not self.accept(character):
            raise self.error(wanted)

    def error(self, wanted: str) -> SpecError:
        found = "the end of the text" if self.at_end() else repr(self.text[self.position])
        return SpecError(f"found {found}, wanted {wanted}", self.text, self.position)

    def match(self, pattern: re.Pattern[str], wanted: str) -> re.Match[str]:
        match = pattern.match(self.text, self.position)
        if match is None:
            raise self.error(wanted)
        self.position = match.end()
        self.skip_space()
        return match

    def word(self, pattern: re.Pattern[str], wanted: str, rest: str) -> str:
        """Read an atom all of which fits the pattern; `rest` says what a character of it may be."""
        start = self.position
        found = self.match(pattern, wanted)
        atom = _ATOM.match(self.text, start)
        if atom is not None and atom.end() > found.end():
            character = self.text[found.end()]
            raise SpecError(f"found {character!r} in {atom.group()!r}, wanted {rest}", self.text, found.end())
        return found.group()

    def pass_(self) -> PassSpec:
        start = self.position
        name = self.word(_NAME, "the name of a pass", "letters, digits and '-' in the name of a pass")
        if not self.accept("{"):
            return PassSpec(name, (), start)
        if self.accept("}"):
            return PassSpec(name, (), start)
        options = [self.option()]
        while not self.accept("}"):
            self.expect(",", wanted="',' and another option, or '}'; put text with special characters in quotes")
            options.append(self.option())
        return PassSpec(name, tuple(options), start)

    def option(self) -> Option:
        start = self.position
        key = self.word(_KEY, "the name of an option", "letters, digits and '_' in the name of an option")
        if not self.accept("="):
            return Option(key, None, start)
        return Option(key, self.value(), start)

    def value(self) -> Value:
        start = self.position
        if self.sees('"'):
            return self.quoted()
        if self.accept("["):
            return self.items(start)
        return Atom(self.match(_ATOM, "a value: a word, a list in [ ] or text in quotes").group(), start)

    def items(self, start: int) -> Items:
        if self.accept("]"):
            return Items((), start)
        items = [self.value()]
        while not self.accept("]"):
            self.expect(",", wanted="',' and another value, or ']'")
            items.append(self.value())
        return Items(tuple(items), start)

    def quoted(self) -> Text:
        start = self.position
        if _QUOTED.match(self.text, start) is None:
            raise SpecError("found an opening quote, wanted a closing quote after it", self.text, start)
        inside = self.match(_QUOTED, "text in quotes").group(1)
        bad = _BAD_ESCAPE.search(re.sub(r"\\[\"\\]", "..", inside))
        if bad is not None:
            place = start + 1 + bad.start()
            raise SpecError("found a lone backslash, wanted two of them, or one before a quote", self.text, place)
        return Text(re.sub(r"\\(.)", r"\1", inside), start)
