"""What the user's own files give: a model with its inputs, calibration batches, a loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from graphopt.capture_failure import Attempt, summary
from graphopt.cli.targets import Target
from graphopt.errors import CaptureError, PreconditionError, SpecError


@dataclass(frozen=True)
class Built:
    """What a builder returned.

    Attributes:
        model: The model.
        args: Example positional inputs.
        kwargs: Example keyword inputs.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def build_model(target: Target) -> Built:
    """Call the function that a target names and check what it returns.

    Raises:
        SpecError: The target does not lead to a function.
        CaptureError: The function raises, or returns something else than a model and its inputs.
    """
    builder = target.load()
    if isinstance(builder, nn.Module) or not callable(builder):
        raise SpecError(f"{target} is a {_kind(builder)}, wanted a function that returns (model, args)")
    with Attempt() as attempt:
        returned = builder()
    if attempt.failure is not None:
        raise CaptureError(f"{target} raises {summary(attempt.failure)}; make it run alone") from attempt.failure
    return _checked(target, returned)


def load_batches(target: Target) -> Iterable[Any]:
    """Return calibration batches, from an iterable or a function; a generator function is called for every round.

    Raises:
        SpecError: The target leads to neither.
        PreconditionError: The function raises, or returns nothing that can be gone through.
    """
    found = target.load()
    if isinstance(found, Iterable):
        return found
    if not callable(found):
        raise SpecError(f"{target} is a {_kind(found)}, wanted batches, or a function that returns them")
    with Attempt() as attempt:
        returned = found()
    if attempt.failure is not None:
        raise PreconditionError(f"{target} raises {summary(attempt.failure)}") from attempt.failure
    if isinstance(returned, Iterator):
        return _Anew(found)
    if not isinstance(returned, Iterable):
        raise PreconditionError(f"{target} returned a {_kind(returned)}, wanted batches that can be gone through")
    return returned


def load_loss(target: Target) -> Callable[[Any, Any], Any]:
    """Return a loss of output and batch.

    Raises:
        SpecError: The target does not lead to a function.
    """
    found: object = target.load()
    if not callable(found):
        raise SpecError(f"{target} is a {_kind(found)}, wanted a function of (output, batch) that returns a scalar")
    return found


@dataclass(frozen=True)
class _Anew:
    """Batches of a generator function, which starts again whenever they are gone through."""

    function: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.function()


def _checked(target: Target, returned: object) -> Built:
    wanted = "wanted (model, args) or (model, args, kwargs)"
    if not isinstance(returned, tuple) or len(returned) not in {2, 3}:
        size = f" of {len(returned)}" if isinstance(returned, tuple) else ""
        raise CaptureError(f"{target} returned a {_kind(returned)}{size}, {wanted}")
    model, args, kwargs = (*returned, {})[:3]
    if not isinstance(model, nn.Module):
        raise CaptureError(f"{target} returned a {_kind(model)} as its model, {wanted} with an nn.Module")
    if not isinstance(args, tuple):
        hint = "; write (x,) for a single input" if not isinstance(args, list) else "; write (...) for [...]"
        raise CaptureError(f"{target} returned a {_kind(args)} as args, wanted a tuple of positional inputs{hint}")
    if not isinstance(kwargs, Mapping):
        raise CaptureError(f"{target} returned a {_kind(kwargs)} as kwargs, wanted a dict of keyword inputs")
    return Built(model, args, kwargs)


def _kind(value: object) -> str:
    return type(value).__name__
