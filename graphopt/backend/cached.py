"""Cache sessions around calls of compiled models."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch

from graphopt.backend.guard import TensorGuard
from graphopt.pass_manager import Result
from graphopt.runtime import CacheSession, Decision


class Cacheable(Protocol):
    """A compiled graph that has programs of a cache."""

    def cached(self, args: Sequence[Any]) -> CachedPrograms:
        """Return the programs for the parameters among the arguments of a call."""


class CachedCalls:
    """What `cache_session` gives: the steps of every model that was compiled with the option `cache`.

    Each compiled graph has steps, memory and schedule of its own, as in a `graphopt.CacheSession`.

    Attributes:
        decisions: What every step since the last reset did, in the order of the calls.
    """

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self._sessions: weakref.WeakSet[CacheSession] = weakref.WeakSet()
        self._branch = ""
        self._steps: int | None = None
        self._timesteps: Sequence[float] | None = None

    def reset(self, *, steps: int | None = None, timesteps: Sequence[float] | None = None) -> None:
        """Start a new generation: nothing is held any more.

        Args:
            steps: Number of its steps, where known; a schedule may want the last one full.
            timesteps: Timestep of every step, where known.
        """
        self._steps, self._timesteps = steps, timesteps
        self.decisions.clear()
        for session in self._sessions:
            session.reset(steps=steps, timesteps=timesteps)

    @contextmanager
    def branch(self, name: str) -> Iterator[None]:
        """Run steps of another guidance branch, such as the unconditional one, with a memory of its own."""
        before, self._branch = self._branch, name
        try:
            yield
        finally:
            self._branch = before

    @property
    def cache_bytes(self) -> int:
        """Bytes of the slots held for later steps, of all graphs and guidance branches."""
        return sum(session.cache_bytes for session in self._sessions)

    def run(self, graph: Cacheable, args: Sequence[Any]) -> Any:
        """Run the next step of a graph.

        Args:
            graph: Which one.
            args: The arguments of its call.
        """
        programs = graph.cached(args)
        session = programs.session_of(self)
        with session.branch(self._branch), torch.no_grad():
            output = session(*programs.inputs(args))
        self.decisions.append(session.decisions[-1])
        return output

    def start(self, session: CacheSession) -> None:
        """Take in the session of a graph that is called for the first time."""
        session.reset(steps=self._steps, timesteps=self._timesteps)
        self._sessions.add(session)


class CachedPrograms:
    """The programs of a graph's cache, and for each session the memory of its steps.

    Args:
        result: What the caching passes made.
        guard: Watches the parameters that it was made from.
        places: Where the inputs of the programs stand among the arguments of a call.
        inner: Backend that compiles the programs.
    """

    def __init__(self, result: Result, guard: TensorGuard, places: Sequence[int], inner: str) -> None:
        self._result = result
        self._guard = guard
        self._places = places
        self._inner = inner
        self._rewritten = False
        self._sessions: weakref.WeakKeyDictionary[CachedCalls, CacheSession] = weakref.WeakKeyDictionary()

    def holds(self, args: Sequence[Any]) -> bool:
        """Tell whether the parameters are those that the programs were made from."""
        return self._guard.holds(args)

    def inputs(self, args: Sequence[Any]) -> list[Any]:
        """Return the arguments of a call that the programs take."""
        return [args[place] for place in self._places]

    def session_of(self, calls: CachedCalls) -> CacheSession:
        """Return what plays the schedule in a session."""
        if calls not in self._sessions:
            session = CacheSession(self._result)
            self._compile(session)
            calls.start(session)
            self._sessions[calls] = session
        return self._sessions[calls]

    def _compile(self, session: CacheSession) -> None:
        if self._inner == "eager":
            return
        # torch.compile never compiles code that torch.fx wrote while torch.compile was at work.
        for program in () if self._rewritten else self._result.programs.values():
            program.graph_module.recompile()
        self._rewritten = True
        session.compile(backend=self._inner)


_ACTIVE: ContextVar[CachedCalls | None] = ContextVar("graphopt_cache_session", default=None)


def active_session() -> CachedCalls | None:
    """Return the session that calls of this thread or task are in."""
    return _ACTIVE.get()


@contextmanager
def cache_session(*, steps: int | None = None, timesteps: Sequence[float] | None = None) -> Iterator[CachedCalls]:
    """Let compiled models use their caches: every call in this context is the next step of a generation.

    Models take part that were compiled with ``options={"cache": "deepcache{interval=3}"}`` or another caching pass.
    Outside of a session they compute everything. Other threads have sessions of their own.

    Args:
        steps: Number of steps, where known; a schedule may want the last one full.
        timesteps: Timestep of every step, where known.
    """
    calls = CachedCalls()
    calls.reset(steps=steps, timesteps=timesteps)
    token = _ACTIVE.set(calls)
    try:
        yield calls
    finally:
        _ACTIVE.reset(token)
