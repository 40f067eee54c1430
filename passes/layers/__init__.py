"""Passes that leave out whole branches and blocks."""

from graphopt.passes.layers.prune import PruneLayers

__all__ = ["PruneLayers"]
