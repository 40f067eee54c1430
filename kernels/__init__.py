"""Triton kernels, each with its reference in plain torch."""
