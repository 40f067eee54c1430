"""Passes that remove indices of axes: channels, heads, hidden units, residual widths."""
