"""Passes that remove indices of axes: channels, heads, hidden units, residual widths."""

from graphopt.passes.channels.prune import PruneChannels

__all__ = ["PruneChannels"]
