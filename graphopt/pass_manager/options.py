"""Options of a pass: the fields of its dataclass, checked when made and printed where they differ from the default."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_type_hints

from graphopt.errors import RegistrationError, SpecError
from graphopt.pass_manager.kinds.annotations import kind_of
from graphopt.pass_manager.kinds.base import Kind
from graphopt.pass_manager.kinds.words import Boolean
from graphopt.pass_manager.syntax import Option, PassSpec

if TYPE_CHECKING:
    from graphopt.pass_manager.base import Pass


@cache
def option_kinds(pass_type: "type[Pass]") -> Mapping[str, Kind]:
    """Return the kind of each option of a pass, in field order.

    Args:
        pass_type: The class of the pass.

    Raises:
        RegistrationError: An option's annotation has no text form.
    """
    hints = get_type_hints(pass_type)
    kinds = {}
    for field in _option_fields(pass_type):
        try:
            kinds[field.name] = kind_of(hints[field.name])
        except RegistrationError as error:
            error.add_note(f"the option is {field.name} of {pass_type.__name__}")
            raise
    return MappingProxyType(kinds)


def required_options(pass_type: "type[Pass]") -> tuple[str, ...]:
    """Return the names of the options that have no default.

    Args:
        pass_type: The class of the pass.
    """
    return tuple(field.name for field in _option_fields(pass_type) if not _has_default(field))


def check_kinds(pass_: "Pass") -> None:
    """Check each option of a pass against its annotation, and convert it where nothing is lost.

    Args:
        pass_: The pass; a list in it becomes a tuple, an integer in a field of floats a float.

    Raises:
        SpecError: An option has a value of the wrong type; the message names it.
    """
    for name, kind in option_kinds(type(pass_)).items():
        try:
            value = kind.check(getattr(pass_, name))
        except SpecError as error:
            raise SpecError(f"{pass_.name}: option {name}: {error.message}", option=name) from None
        object.__setattr__(pass_, name, value)


def pass_spec(pass_: "Pass") -> PassSpec:
    """Return the syntax of a pass: its name and the options that differ from their defaults, in field order.

    Args:
        pass_: The pass; reading the text of the result makes an equal one.
    """
    kinds = option_kinds(type(pass_))
    options = []
    for field in _option_fields(type(pass_)):
        value = getattr(pass_, field.name)
        if not _is_default(field, kinds[field.name], value):
            options.append(_option(field.name, kinds[field.name], value))
    return PassSpec(pass_.name, tuple(options))


def _option(key: str, kind: Kind, value: object) -> Option:
    if value is True and Boolean().write(value) == kind.write(value):
        return Option(key)
    return Option(key, kind.write(value))


def _option_fields(pass_type: "type[Pass]") -> "list[Field[Any]]":
    return [field for field in fields(pass_type) if field.init]


def _has_default(field: "Field[Any]") -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _is_default(field: "Field[Any]", kind: Kind, value: object) -> bool:
    if not _has_default(field):
        return False
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return kind.write(kind.check(default)) == kind.write(value)
