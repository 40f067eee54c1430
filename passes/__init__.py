"""Passes: one file a pass, in rooms that never import each other."""

from graphopt.passes.channels import PruneChannels

__all__ = ["PruneChannels"]
