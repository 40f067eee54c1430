"""On what a benchmark ran."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch


def machine_text(packages: Iterable[str]) -> str:
    """Return one line: processor, cores, threads, load, Python and the versions of packages."""
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {os.cpu_count()} cores, 1 thread a process, load {load:.1f}, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}, device cpu (CUDA {torch.version.cuda or 'not built in'})"
    )


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
