"""From an annotation to its kind."""

import types
from typing import Literal, Union, get_args, get_origin

from graphopt.errors import RegistrationError
from graphopt.pass_manager.kinds.base import Kind
from graphopt.pass_manager.kinds.containers import Either, ListOf, Record
from graphopt.pass_manager.kinds.words import Boolean, Choice, Integer, Nothing, Number, String

_PLAIN: dict[object, type[Kind]] = {
    bool: Boolean,
    int: Integer,
    float: Number,
    str: String,
    type(None): Nothing,
    None: Nothing,
}


def kind_of(annotation: object) -> Kind:
    """Return the kind that an annotation stands for.

    Args:
        annotation: A type, as `typing.get_type_hints` returns it.

    Raises:
        RegistrationError: The annotation has no text form.
    """
    if annotation in _PLAIN:
        return _PLAIN[annotation]()
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(isinstance(value, str | int | None) for value in arguments):
        return Choice(arguments)
    if origin in {Union, types.UnionType}:
        return Either(tuple(sorted(map(kind_of, arguments), key=lambda kind: kind.rank)))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return ListOf(kind_of(arguments[0]))
    if origin is tuple:
        return Record(tuple(map(kind_of, arguments)))
    raise RegistrationError(
        f"found an option of type {annotation}, wanted bool, int, float, str, Literal, tuple or a union of them; "
        "put what has no text form into the PassContext"
    )
