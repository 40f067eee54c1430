"""torch.compile(model, backend="graphopt"): exact rewrites on the graph, then the inner backend."""

from graphopt.backend.cached import CachedCalls, cache_session
from graphopt.backend.compiled import invalidate
from graphopt.backend.entry import graphopt_backend

__all__ = ["CachedCalls", "cache_session", "graphopt_backend", "invalidate"]
