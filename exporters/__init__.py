"""Writers of results to disk: ONNX files and weights; and the runner of what was written."""

import importlib
from typing import Any

_RUNNERS = {"OnnxCachedDenoiser": "graphopt.runtime.onnx_denoiser"}
"""What plays exported files stands on a floor above, with the sessions whose decisions it shares."""


def __getattr__(name: str) -> Any:
    """Import a runner where it is first asked for."""
    if name not in _RUNNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_RUNNERS[name]), name)
