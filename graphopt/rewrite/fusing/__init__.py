"""Operators around stored values replaced by kernels that do the same in one pass, found by pattern on the graph."""
