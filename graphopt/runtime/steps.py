"""Which step of which generation a call of a denoiser is, told from what the sampling loop passes, without waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from torch import Tensor

from graphopt.runtime.session import CacheSession
from graphopt.schedule import TIMESTEP_NAMES, Periods, Schedule

Mark = tuple[str, Any]
"""How a call says where it is: what kind of sign that is, and the sign."""
NOWHERE: Mark = ("", None)
ORDERED = ("place", "entry", "value")
"""Kinds of signs that only rise or only fall in a generation."""


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


@dataclass
class _Generation:
    """What is known of the generation that runs."""

    first: Mark = NOWHERE
    last: Mark = NOWHERE
    step: int = 0
    unnamed: int = 0
    rises: bool | None = None
    listed: bool = False
    calls: Counter[str] = field(default_factory=Counter)


class StepFinder:
    """Finds step, branch and generation of each call.

    A generation starts where the scheduler has another tensor of timesteps than before, which its `set_timesteps`
    makes at each image, and where timesteps that fell rise again. So a loop that was left midway does not matter.

    The place is, in this order: what the call says (`index`); the offset of the timestep in the scheduler's tensor,
    where it is a view of it, as the loop variable of `for t in scheduler.timesteps` is; the scheduler's own count of
    its steps; for named branches, the number of calls of that name; and the value of the timestep, the one thing that
    waits for the device. A second call at the same place is another guidance branch.

    Without a scheduler, a view of one entry in a longer tensor counts as a timestep of that tensor.

    Args:
        scheduler: gives what holds `timesteps`, or None.
    """

    def __init__(self, scheduler: Callable[[], Any] = lambda: None) -> None:
        self._scheduler = scheduler
        self._origin: Any = None
        self._now = _Generation()

    def locate(self, timestep: Any, *, branch: str | None = None, index: int | None = None) -> Moment:
        """Find where a call is.

        Args:
            timestep: the timestep that the model is called with; None where it takes none.
            branch: name of the guidance branch, where the loop tells it.
            index: number of the step, where the loop tells it.
        """
        origin = self._origin_of(timestep)
        mark = self._mark(timestep, branch, index)
        starts = self._now.last == NOWHERE or origin is not self._origin or self._turns(mark)
        if starts:
            self._now = _Generation()
            mark = ("calls", 0) if mark[0] == "calls" else mark
        self._advance(mark, branch)
        self._origin = origin
        self._now.listed = mark[0] == "place" and _is_entry(timestep)
        if branch is None:
            branch = str(self._now.unnamed) if self._now.unnamed else ""
            self._now.unnamed += 1
        return Moment(self._now.step, branch, starts)

    def forget(self) -> None:
        """Take the next call for the first of a generation."""
        self._origin = None
        self._now = _Generation()

    def timesteps(self) -> Tensor | None:
        """The scheduler's timesteps from the first step of this generation on; None where they are not known."""
        timesteps = _timesteps(self._scheduler())
        return None if timesteps is None else timesteps[self._first(timesteps) :]

    @property
    def listed(self) -> bool:
        """Whether the model is given the scheduler's timesteps as they are, not scaled to another range."""
        return self._now.listed

    # ------------------------------------------------------------------ where

    def _origin_of(self, timestep: Any) -> Any:
        """What all steps of a generation have in common: the tensor that holds their timesteps."""
        timesteps = _timesteps(self._scheduler())
        if timesteps is not None or not _is_entry(timestep):
            return timesteps
        return self._origin if _shares_storage(timestep, self._origin) else timestep

    def _mark(self, timestep: Any, branch: str | None, index: int | None) -> Mark:
        if index is not None:
            return "place", index
        scheduler = self._scheduler()
        timesteps = _timesteps(scheduler)
        if timesteps is None:
            return self._own_mark(timestep)
        if _is_entry(timestep) and _shares_storage(timestep, timesteps):
            return "place", (timestep.storage_offset() - timesteps.storage_offset()) // timesteps.stride(0)
        if hasattr(scheduler, "step_index"):
            return "count", scheduler.step_index
        return ("calls", self._now.calls[branch]) if branch is not None else self._own_mark(timestep)

    @staticmethod
    def _own_mark(timestep: Any) -> Mark:
        if timestep is None:
            return "nothing", None
        if _is_entry(timestep):
            return "entry", timestep.storage_offset()
        return "value", float(timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep)

    def _turns(self, mark: Mark) -> bool:
        """Tell whether timesteps rise that fell before, or the other way round."""
        now, (kind, sign) = self._now, mark
        if kind not in ORDERED or now.last[0] != kind or sign == now.last[1]:
            return False
        rises = bool(sign > now.last[1])
        turned = now.rises is not None and rises != now.rises
        now.rises = rises
        return turned

    def _advance(self, mark: Mark, branch: str | None) -> None:
        now, (kind, sign) = self._now, mark
        before, now.last = now.last, mark
        if branch is not None:
            now.calls[branch] += 1
        if before == NOWHERE:
            now.first = mark
        elif kind == "calls":
            now.step = int(sign)
        elif mark != before or kind == "nothing":
            now.step += abs(sign - before[1]) if kind == before[0] == "place" else 1
            now.unnamed = 0

    def _first(self, timesteps: Tensor) -> int:
        """Index of this generation's first step among all timesteps."""
        kind, sign = self._now.first
        if kind == "place":
            return int(sign)
        if kind == "value" and timesteps.device.type == "cpu":
            found = (timesteps == sign).nonzero().flatten()
            return int(found[0]) if len(found) else 0
        return getattr(self._scheduler(), "begin_index", None) or 0


def timestep_of(given: Mapping[str, Any]) -> Any:
    """The timestep among the arguments of a call by name; None where there is none."""
    return next((given[name] for name in TIMESTEP_NAMES if given.get(name) is not None), None)


def start(session: CacheSession, finder: StepFinder) -> None:
    """Start a generation; the values of the timesteps are read only where the schedule asks for them.

    Args:
        session: plays the generation.
        finder: has located its first call.
    """
    timesteps = finder.timesteps()
    if timesteps is None:
        session.reset()
    elif _asks_for_values(session.schedule, listed=finder.listed):
        session.reset(timesteps=timesteps.tolist())
    else:
        session.reset(steps=len(timesteps))


def _asks_for_values(schedule: Schedule, *, listed: bool) -> bool:
    if isinstance(schedule.policy, Periods) and schedule.policy.window is not None:
        return True
    return schedule.timestep is not None and listed


def _timesteps(scheduler: Any) -> Tensor | None:
    found = getattr(scheduler, "timesteps", None)
    return found if isinstance(found, Tensor) and found.ndim == 1 and len(found) else None


def _is_entry(timestep: Any) -> TypeGuard[Tensor]:
    """Tell whether a timestep is a view of one entry of a longer tensor, be it expanded."""
    if not isinstance(timestep, Tensor):
        return False
    single = all(size == 1 or stride == 0 for size, stride in zip(timestep.shape, timestep.stride(), strict=True))
    return single and timestep.untyped_storage().nbytes() > timestep.element_size()


def _shares_storage(one: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and one.untyped_storage()._cdata == other.untyped_storage()._cdata
