"""Names of the operators that have a coupling rule, kept where capture can see them."""

from collections.abc import Callable
from typing import Any

_NAMES: set[str] = set()
_LOADERS: list[Callable[[], object]] = []


def load_before_use(loader: Callable[[], object]) -> None:
    """Have a function called before the first question, such as one that loads plug-ins."""
    _LOADERS.append(loader)


def make_known(name: str) -> None:
    """Keep an operator whole when it is captured.

    Args:
        name: As `str(node.target)` prints it.
    """
    _NAMES.add(name)


def is_known(target: Any) -> bool:
    """Tell whether an operator, or the one that it is the in-place variant of, has a coupling rule."""
    while _LOADERS:
        _LOADERS.pop()()
    return any(name in _NAMES for name in names_of(target))


def names_of(target: Any) -> list[str]:
    """Return the names under which a rule may serve a call target: its own, then that of its out-of-place variant."""
    name = str(target)
    namespace, _, rest = name.partition(".")
    base, _, overload = rest.partition(".")
    in_place = base.endswith("_") and not base.startswith("_")
    return [name, f"{namespace}.{base.rstrip('_')}.{overload}"] if in_place else [name]
