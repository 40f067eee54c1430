"""Where in the user's model an operator comes from: modules on the way, and lines of code."""

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from graphopt.capture_failure import TORCH

_SHOWN = f"{TORCH}nn/modules"
_HIDDEN = frozenset((str(Path(_SHOWN) / "module.py"), *map(str, Path(__file__).parent.glob("*.py"))))


class Origins:
    """Follows a run of a model and tells at any moment where it is.

    Args:
        model: The model that runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        self._stack: list[dict[str, tuple[str, str]]] = [{}]
        self._texts: dict[tuple[CodeType, int], str] = {}
        self._last: FrameType | None = None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the modules that are called in the block."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        self._last = sys._getframe(2)
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def __call__(self) -> dict[str, Any]:
        """Return the meta of a node that is made now: modules from outer to inner, frames likewise."""
        return {"nn_module_stack": self._stack[-1], "stack_trace": self._trace()}

    def _enter(self, module: nn.Module, args: Any) -> None:
        name = self._names.get(id(module))
        if name is None:
            self._stack.append(self._stack[-1])
            return
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        self._stack.append({**self._stack[-1], f"L__self__{name.replace('.', '_')}": (name, kind)})

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        self._stack.pop()

    def _trace(self) -> str:
        texts: list[str] = []
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame is not self._last:
            text = self._text(frame)
            if text:
                texts.append(text)
            frame = frame.f_back
        return "\n".join(reversed(texts))

    def _text(self, frame: FrameType) -> str:
        key = (frame.f_code, frame.f_lineno)
        if key not in self._texts:
            self._texts[key] = _described(frame)
        return self._texts[key]


def _described(frame: FrameType) -> str:
    path = frame.f_code.co_filename
    inner = path.startswith(TORCH) and not path.startswith(_SHOWN)
    if inner or path in _HIDDEN:
        return ""
    code = linecache.getline(path, frame.f_lineno).strip()
    return f'File "{path}", line {frame.f_lineno}, in {frame.f_code.co_name}\n    {code}'
