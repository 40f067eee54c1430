"""Kernels beside the operations they replace: bytes counted, and time where there is a GPU."""
