"""Running what passes made: sessions that play the schedule of cached programs, and their place in pipelines."""

from graphopt.runtime.pipelines import disable_cache, enable_cache
from graphopt.runtime.session import CacheSession, Decision

__all__ = ["CacheSession", "Decision", "disable_cache", "enable_cache"]
