"""Benchmarks are scripts beside each other: their folder goes on the module path, as `make bench` puts it."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let benchmarks be imported; the last place on the path, so that kernels.py stands in nobody's way."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])
    return FOLDER
