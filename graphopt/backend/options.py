"""Options of the backend, checked before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from graphopt.errors import SpecError
from graphopt.pass_manager import Pass, Pipeline
from graphopt.pass_manager.suggestions import nearest

NAME = "graphopt"
"""What `torch.compile` calls the backend."""


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """What `torch.compile(model, backend="graphopt", options={...})` may say.

    Attributes:
        inner: Backend that compiles what comes out: ``inductor``, ``eager`` or any other that torch lists.
        passes: Text of a pipeline of exact passes.
        cache: Text of a pipeline of caching passes, used inside `graphopt.cache_session()` only; none by default.
        skip: Branches or blocks to leave out, by id, or by pattern of id or module.
        fuel: How many rewrites may be made, none for any number.
        verify: Whether a rewritten graph is compared with the original on the example inputs.

    Raises:
        SpecError: A value is of the wrong type, a text names no pass, or a pass is not allowed where it stands.
    """

    inner: str = "inductor"
    passes: str = "remove-dead"
    cache: str | None = None
    skip: tuple[str, ...] = ()
    fuel: int | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        for name, (holds, wanted) in _KINDS.items():
            value = getattr(self, name)
            if not holds(value):
                raise SpecError(f"option {name}: found {value!r}, wanted {wanted}; {_listing()}", option=name)
        known = [name for name in torch._dynamo.list_backends(exclude_tags=()) if name != NAME]
        if self.inner not in known:
            raise SpecError(f"option inner: found {self.inner!r}; {nearest(self.inner, known)}", option="inner")
        for pass_ in self.exact_passes():
            _require_exact(pass_)
        self.caching_passes()

    def exact_passes(self) -> tuple[Pass, ...]:
        """Return the passes that every graph goes through."""
        return Pipeline(self.passes).passes

    def caching_passes(self) -> tuple[Pass, ...]:
        """Return the passes that make the programs of a cache session; none where there is no cache."""
        return () if self.cache is None else Pipeline(self.cache).passes

    @property
    def explicit(self) -> tuple[str, ...]:
        """Names of the options that ask for more than exact rewrites; where they cannot be met, that is an error."""
        return tuple(name for name in ("skip", "cache") if getattr(self, name))


def read_options(options: Mapping[str, Any] | None, mode: str | None = None) -> BackendOptions:
    """Read what `torch.compile` hands to the backend.

    Args:
        options: By name.
        mode: A mode of inductor, which is no option of this backend.

    Raises:
        SpecError: An option is unknown, or its value is wrong.
    """
    if mode not in (None, "default"):
        raise SpecError(f"found mode={mode!r}, which is inductor's own; leave it out: {_listing()}", option="mode")
    given = dict(options or {})
    known = [field.name for field in fields(BackendOptions)]
    strangers = [name for name in given if name not in known]
    if strangers:
        name = str(strangers[0])
        raise SpecError(f"found no option called {name!r}; {nearest(name, known)}; {_listing()}", option=name)
    if isinstance(given.get("skip"), list):
        given["skip"] = tuple(given["skip"])
    return BackendOptions(**given)


def _require_exact(pass_: Pass) -> None:
    if pass_.exact:
        return
    raise SpecError(
        f"option passes: {pass_.name} is no exact rewrite of one program, wanted exact passes only; call result = "
        f"graphopt.optimize(model, args, passes={str(pass_)!r}) and compile result.module(), or give a caching pass as "
        "the option cache",
        option="passes",
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "inner": (_is_text, "the name of a backend"),
    "passes": (_is_text, "the text of a pipeline"),
    "cache": (lambda value: value is None or _is_text(value), "the text of a pipeline of caching passes, or None"),
    "skip": (_are_names, "a list of names"),
    "fuel": (_is_count, "a number of rewrites from 0 up, or None"),
    "verify": (lambda value: isinstance(value, bool), "true or false"),
}


def _listing() -> str:
    return f"the options are {', '.join(field.name for field in fields(BackendOptions))}"
