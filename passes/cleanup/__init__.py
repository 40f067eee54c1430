"""Passes that take away what changes no output."""

from graphopt.passes.cleanup.remove_dead import RemoveDead

__all__ = ["RemoveDead"]
