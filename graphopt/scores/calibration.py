"""What a batch of calibration data may be, and how a program is called with one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from graphopt.errors import PreconditionError

WANTED = (
    "wanted a tensor, a tuple of positional arguments, a mapping of keyword arguments, or "
    "graphopt.scores.Batch(args=..., kwargs=..., target=...) where the loss needs a target too"
)


@dataclass(frozen=True, eq=False)
class Batch:
    """Arguments of one call, and what only the loss reads.

    Attributes:
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        target: What the loss compares the output with, such as labels; the model does not see it.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None


def call_batch(run: Callable[..., Any], batch: Any) -> Any:
    """Call a model or program with a batch and return its output.

    Args:
        run: What is called.
        batch: A tensor, a tuple of positional arguments, a mapping of keyword arguments, or a `Batch`.

    Raises:
        PreconditionError: The batch is none of these.
    """
    if isinstance(batch, Batch):
        return run(*batch.args, **batch.kwargs)
    if isinstance(batch, Tensor):
        return run(batch)
    if isinstance(batch, tuple):
        return run(*batch)
    if isinstance(batch, Mapping):
        return run(**batch)
    hint = ""
    if isinstance(batch, list):
        hint = "; a DataLoader gives lists: turn [input, label] into Batch(args=(input,), target=label)"
    raise PreconditionError(f"a calibration batch is a {type(batch).__name__}, {WANTED}{hint}")


def numbered_batches(calibration: Iterable[Any] | None, purpose: str) -> Iterator[tuple[int, Any]]:
    """Yield calibration batches with their number, from 0.

    Args:
        calibration: The batches.
        purpose: What needs them, for the message.

    Raises:
        PreconditionError: There are no batches, or what should hold them is one batch.
    """
    if calibration is None:
        raise PreconditionError(f"{purpose} needs data and found none; pass calibration=[batch, ...]")
    if isinstance(calibration, Tensor | Mapping | Batch):
        raise PreconditionError(
            f"calibration is one batch, a {type(calibration).__name__}; wanted several: pass calibration=[batch]"
        )
    empty = True
    for number, batch in enumerate(calibration):
        empty = False
        yield number, batch
    if empty:
        raise PreconditionError(
            f"{purpose} needs data and calibration is empty; a generator that was gone through once is empty "
            "afterwards: pass a list or a DataLoader"
        )
