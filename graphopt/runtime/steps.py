"""Which step of which generation a call of a denoiser is, told from what the sampling loop passes, without waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Mark = tuple[str, Any]
"""How a call says where it is: what kind of sign that is, and the sign."""


@dataclass(frozen=True)
class Moment:
    """Where a call is.

    Attributes:
        step: number of the step in its generation, from 0 at the first that was seen.
        branch: name of the guidance branch; "" for the only or first one.
        starts: whether a new generation starts with this call.
    """

    step: int
    branch: str
    starts: bool


class StepFinder:
    """Finds step, branch and generation of each call.

    A generation starts where the scheduler has another tensor of timesteps than before, which its `set_timesteps`
    makes at each image, and where the place in that tensor goes back. So a loop that was left midway does not matter.

    The place is, in this order: what the call says (`index`); the offset of the timestep in the scheduler's tensor,
    where it is a view of it, as the loop variable of `for t in scheduler.timesteps` is; the scheduler's own count of its
    steps; for named branches, the number of calls of that name; and the value of the timestep, the one thing that waits
    for the device. A second call at the same place is another guidance branch.

    Without a scheduler, a view of one entry in a longer tensor counts as a timestep of that tensor.

    Args:
        scheduler: gives what holds `timesteps`, or None.
    """

    def __init__(self, scheduler: Callable[[], Any] = lambda: None) -> None:
        self._scheduler = scheduler
        self._origin: Any = None
        self._held: Any = None
        self._restart()

    def locate(self, timestep: Any, *, branch: str | None = None, index: int | None = None) -> Moment:
        """Find where a call is.

        Args:
            timestep: the timestep that the model is called with; None where it takes none.
            branch: name of the guidance branch, where the loop tells it.
            index: number of the step, where the loop tells it.
        """
        origin = self._origin_of(timestep)
        starts = self._held is None or origin is not self._origin
        mark = self._mark(timestep, branch, index)
        if starts or self._goes_back(mark):
            starts = True
            self._restart()
        self._advance(mark, branch)
        self._origin, self._held = origin, (timestep, origin)
        if branch is None:
            branch = str(self._unnamed) if self._unnamed else ""
            self._unnamed += 1
        return Moment(self._step, branch, starts)

    def forget(self) -> None:
        """Take the next call for the first of a generation."""
        self._held = self._origin = None
        self._restart()

    def timesteps(self) -> Tensor | None:
        """The scheduler's timesteps from the first step of this generation on; None where they are not known."""
        timesteps = _timesteps(self._scheduler())
        return None if timesteps is None else timesteps[self._first(timesteps) :]

    # ------------------------------------------------------------------ where

    def _origin_of(self, timestep: Any) -> Any:
        timesteps = _timesteps(self._scheduler())
        if timesteps is not None:
            return timesteps
        if isinstance(timestep, Tensor) and _is_entry(timestep):
            held = self._held[1] if self._held is not None else None
            same = isinstance(held, Tensor) and _shares_storage(held, timestep)
            return held if same else timestep
        return None

    def _mark(self, timestep: Any, branch: str | None, index: int | None) -> Mark:
        if index is not None:
            return "place", index
        scheduler = self._scheduler()
        offset = _offset(timestep, _timesteps(scheduler))
        if offset is not None:
            return "place", offset
        if hasattr(scheduler, "step_index"):
            return "count", scheduler.step_index
        if branch is not None:
            return "calls", self._calls[branch]
        return ("nothing", None) if timestep is None else ("value", _value(timestep))

    def _goes_back(self, mark: Mark) -> bool:
        kind, sign = mark
        if self._mark_before is None or self._mark_before[0] != kind:
            return False
        before = self._mark_before[1]
        if kind == "place":
            return bool(sign < before)
        turned = kind == "value" and sign != before and self._rises is not None
        return turned and (sign > before) != self._rises

    def _advance(self, mark: Mark, branch: str | None) -> None:
        kind, sign = mark
        before = self._mark_before
        if before is None:
            self._first_mark = mark
        elif kind == "calls":
            self._step = int(sign)
        elif mark != before or kind == "nothing":
            follows = kind == "place" and before[0] == kind
            self._step += sign - before[1] if follows else 1
            self._unnamed = 0
        if before is not None and kind == before[0] == "value" and sign != before[1]:
            self._rises = bool(sign > before[1])
        self._mark_before = mark
        if branch is not None:
            self._calls[branch] += 1

    def _first(self, timesteps: Tensor) -> int:
        kind, sign = self._first_mark or ("nothing", None)
        if kind == "place":
            return int(sign)
        if kind == "value" and timesteps.device.type == "cpu":
            found = (timesteps == sign).nonzero().flatten()
            return int(found[0]) if len(found) else 0
        return getattr(self._scheduler(), "begin_index", None) or 0

    def _restart(self) -> None:
        self._step = 0
        self._unnamed = 0
        self._calls: Counter[str] = Counter()
        self._mark_before: Mark | None = None
        self._first_mark: Mark | None = None
        self._rises: bool | None = None


def _timesteps(scheduler: Any) -> Tensor | None:
    found = getattr(scheduler, "timesteps", None)
    return found if isinstance(found, Tensor) and found.ndim == 1 else None


def _offset(timestep: Any, timesteps: Tensor | None) -> int | None:
    """Index of the entry of `timesteps` that a timestep is a view of; without `timesteps`, of the tensor it lies in."""
    if not isinstance(timestep, Tensor) or not _is_entry(timestep):
        return None
    if timesteps is None:
        return timestep.storage_offset()
    if not _shares_storage(timestep, timesteps):
        return None
    return (timestep.storage_offset() - timesteps.storage_offset()) // timesteps.stride(0)


def _is_entry(timestep: Tensor) -> bool:
    """Tell whether a tensor is one entry of a longer one, be it expanded."""
    single = all(size == 1 or stride == 0 for size, stride in zip(timestep.shape, timestep.stride(), strict=True))
    return single and timestep.untyped_storage().nbytes() > timestep.element_size()


def _shares_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata


def _value(timestep: Any) -> float:
    return float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)
