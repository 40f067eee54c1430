"""From a pipeline's text to its passes."""

from graphopt.errors import SpecError
from graphopt.pass_manager.base import Pass
from graphopt.pass_manager.kinds.base import Kind
from graphopt.pass_manager.options import option_kinds, required_options
from graphopt.pass_manager.spec import parse
from graphopt.pass_manager.suggestions import nearest
from graphopt.pass_manager.syntax import Atom, Option, PassSpec
from graphopt.pass_manager.table import PASS_TABLE, PassTable


def read_pipeline(text: str, table: PassTable = PASS_TABLE) -> tuple[Pass, ...]:
    """Make the passes of a pipeline's text.

    Args:
        text: One or more passes, such as `"prune-channels{macs=0.7},prune-channels{params=0.5}"`.
        table: Where the names are looked up.

    Raises:
        SpecError: The text is not in the grammar, or names a pass, an option or a value that is not there; a caret
            stands under it.
    """
    return tuple(_make(spec, text, table) for spec in parse(text))


def _make(spec: PassSpec, text: str, table: PassTable) -> Pass:
    try:
        pass_type = table.find(spec.name)
    except SpecError as error:
        raise SpecError(error.message, text, spec.position) from None
    values = _values(spec, pass_type, text)
    missing = [name for name in required_options(pass_type) if name not in values]
    if missing:
        message = f"{spec.name}: found no option {', '.join(missing)}, which has no default"
        raise SpecError(message, text, spec.position)
    try:
        return pass_type(**values)
    except SpecError as error:
        place = {option.key: _place(option) for option in spec.options}.get(error.option or "", spec.position)
        raise SpecError(error.message, text, place, error.option) from error


def _values(spec: PassSpec, pass_type: type[Pass], text: str) -> dict[str, object]:
    kinds = option_kinds(pass_type)
    values: dict[str, object] = {}
    for option in spec.options:
        if option.key not in kinds:
            raise SpecError(_unknown(spec.name, option.key, list(kinds)), text, option.position, option.key)
        if option.key in values:
            message = f"{spec.name}: found option {option.key} twice, wanted it once"
            raise SpecError(message, text, option.position, option.key)
        values[option.key] = _value(spec.name, option, kinds[option.key], text)
    return values


def _value(pass_name: str, option: Option, kind: Kind, text: str) -> object:
    try:
        return _bare(option, kind) if option.value is None else kind.read(option.value)
    except SpecError as error:
        message = f"{pass_name}: option {option.key}: {error.message}"
        raise SpecError(message, text, error.position, option.key) from None


def _bare(option: Option, kind: Kind) -> bool:
    """Read a key without a value: true, where the option can be true at all."""
    try:
        true = kind.read(Atom("true")) is True
    except SpecError:
        true = False
    if not true:
        raise SpecError(f"found no value, wanted {option.key}=<{kind}>", None, option.position)
    return True


def _unknown(pass_name: str, key: str, known: list[str]) -> str:
    if not known:
        return f"{pass_name} has no options, found {key!r}"
    return f"{pass_name} has no option {key!r}; {nearest(key, known)} (options: {', '.join(known)})"


def _place(option: Option) -> int:
    return option.position if option.value is None else option.value.position
