"""Whole denoisers on a GPU, in plain PyTorch: eager, compiled, cached, and cached with fused kernels."""
