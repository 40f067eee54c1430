"""The GPU: which it is, and how fast it copies."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch
from machine import machine_text

import graphopt


def hardware_text() -> str:
    """Return one line: the GPU, or the processor where there is none, and versions."""
    if not torch.cuda.is_available():
        return f"{machine_text(('torch', 'triton'))}, graphopt {graphopt.__version__}"
    found = torch.cuda.get_device_properties(0)
    return (
        f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors, "
        f"{cache_bytes() / 2**20:.0f} MiB of L2, {platform.system()}, Python {platform.python_version()}, "
        f"graphopt {graphopt.__version__}, torch {torch.__version__}, Triton {version('triton')}, "
        f"CUDA {torch.version.cuda}"
    )


def cache_bytes() -> int:
    """Bytes of the GPU's last cache."""
    return torch.cuda.get_device_properties(0).L2_cache_size
