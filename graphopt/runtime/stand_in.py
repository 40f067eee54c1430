"""The module that stands in for a denoiser while a cache is enabled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphopt.runtime.preparation import Preparation
from graphopt.runtime.session import CacheSession, Decision
from graphopt.runtime.steps import StepFinder, start, timestep_of
from graphopt.schedule import TIMESTEP_NAMES

OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training")


class CachedDenoiser(nn.Module):
    """Called in place of a denoiser, it runs the cached programs; everything else is the denoiser's own.

    Reading, setting and deleting attributes, its parameters, state and class name are those of the model, which itself
    is not changed. The first call with inputs of a structure and size captures the model and runs the passes. Each call
    is the next step of a session; where a generation, a step and a guidance branch begin, the loop's own timesteps
    tell: see `StepFinder`.

    Args:
        model: the denoiser.
        preparation: makes sessions for it.
        scheduler: gives the scheduler of the loop, or None.
    """

    uncached: nn.Module
    """The model itself."""

    def __init__(self, model: nn.Module, preparation: Preparation, scheduler: Callable[[], Any]) -> None:
        super().__init__()
        own = vars(self)
        for name in OWN:
            del own[name]
        own["__module__"] = type(model).__module__
        own["uncached"] = model
        own["_preparation"] = preparation
        own["_finder"] = StepFinder(scheduler)
        own["_decisions"] = []
        own["_named"] = None
        own["_signature"] = inspect.signature(model.forward)

    # ------------------------------------------------------------------ the cache

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What each step of the last generation did."""
        return tuple(self._decisions)

    @property
    def sessions(self) -> tuple[CacheSession, ...]:
        """The sessions made so far, one for each structure and size of the inputs, the last used one at the end."""
        sessions: tuple[CacheSession, ...] = self._preparation.sessions
        return sessions

    def reset(self) -> None:
        """Take the next call for the first of a generation and drop what is held.

        Only a loop of one's own needs it, where neither a scheduler nor rising timesteps tell.
        """
        self._finder.forget()
        for session in self.sessions:
            session.reset()

    @contextmanager
    def cache_context(self, name: str, **where: Any) -> Iterator[None]:
        """Name the guidance branch of the calls inside.

        Args:
            name: of the branch, such as ``uncond``.
            where: may hold `step_index`, the number of the step.
        """
        before = self._named
        vars(self)["_named"] = (name, where.get("step_index"))
        try:
            yield
        finally:
            vars(self)["_named"] = before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the next step.

        Raises:
            GraphoptError: the model cannot be captured for these inputs, or a pass refuses it.
        """
        branch, index = self._named or (None, None)
        moment = self._finder.locate(self._timestep(args, kwargs), branch=branch, index=index)
        if moment.starts:
            self._begin()
        args, kwargs = self._with_tensor_timestep(args, kwargs)
        session = self._preparation.find(args, kwargs, self._start)
        with session.branch(moment.branch):
            session.step = moment.step
            output = session(*args, **kwargs)
        self._decisions.append(session.decisions[-1])
        return output

    def _begin(self) -> None:
        self._decisions.clear()
        self._preparation.refresh()
        for session in self.sessions:
            self._start(session)

    def _start(self, session: CacheSession) -> None:
        start(session, self._finder)

    # ------------------------------------------------------------------ the timestep

    def _timestep(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return timestep_of(self._signature.bind_partial(*args, **kwargs).arguments)

    def _with_tensor_timestep(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Make a tensor of a timestep that is a number: as a number it would be a constant of the programs."""
        bound = self._signature.bind_partial(*args, **kwargs)
        for name in TIMESTEP_NAMES:
            number = bound.arguments.get(name)
            if isinstance(number, int | float) and not isinstance(number, bool):
                bound.arguments[name] = torch.tensor(number, device=_device(args, kwargs))
                return bound.args, bound.kwargs
        return args, dict(kwargs)

    # ------------------------------------------------------------------ the model

    def __getattr__(self, name: str) -> Any:
        """Read everything else from the model."""
        return getattr(vars(self)["uncached"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it on the model."""
        setattr(self.uncached, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete it from the model."""
        delattr(self.uncached, name)

    def to(self, *args: Any, **kwargs: Any) -> CachedDenoiser:
        """Move or cast the model: it is captured anew at its next generation, which a result of the passes refuses."""
        self.uncached.to(*args, **kwargs)
        return self

    def _reset_stateful_cache(self) -> None:
        """Called by pipelines at their end."""
        self.reset()

    @property
    def __class__(self) -> type[Any]:
        """Class of the model, which is what pipelines ask for and write down; `type` tells the truth."""
        return type(self.uncached)

    @__class__.setter
    def __class__(self, value: type[Any]) -> None:
        self.uncached.__class__ = value


def _device(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device | None:
    tensors = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    return tensors[0].device if tensors else None
