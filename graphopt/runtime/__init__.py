"""Running what passes made: sessions that play schedules and partitions, and their place in pipelines."""

from graphopt.runtime.distributed.context import context_parallel
from graphopt.runtime.distributed.distributing import Distributed, distribute, serve
from graphopt.runtime.emulation import Emulation
from graphopt.runtime.pipelines import disable_cache, enable_cache
from graphopt.runtime.session import CacheSession, Decision

__all__ = [
    "CacheSession",
    "Decision",
    "Distributed",
    "Emulation",
    "context_parallel",
    "disable_cache",
    "distribute",
    "enable_cache",
    "serve",
]
