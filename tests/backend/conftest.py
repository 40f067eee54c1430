"""Every test of the backend starts without compiled graphs, and can look at what the inner backend is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from backend.models import Recorder
from torch._dynamo.backends import registry


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """An inner backend called ``recorder``."""
    made = Recorder()
    registry.register_backend(made, name="recorder")
    yield made
    del registry._BACKENDS["recorder"], registry._COMPILER_FNS["recorder"]
