"""What surrounds a run of a user's model on stand-ins: evaluation form, silence, and nothing left behind."""

import contextlib
import gc
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from graphopt.example_inputs import is_weightless
from graphopt.untouched import untouched

UNDONE = "The tensor attributes? .* assigned during export"  # `untouched` takes them back
LOUD = ("torch.export", "torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation form for a while; afterwards it is as it was."""
    with untouched(model), torch.enable_grad(), without_fast_path(), _literals_beside(model):
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let torch's encoder layers compute what they compute in training: the fast path gives zeros where padding is."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def uncompiled() -> AbstractContextManager[object]:
    """Let parts of a model that torch.compile made faster run as they were written.

    Not for torch.export, which looks into the bodies of branches by torch.compile.
    """
    compiling = ("torch._dynamo", "torch.nn.attention.flex_attention")  # the second calls torch.compile by itself
    loaded = any(name in sys.modules for name in compiling)  # loading it takes seconds
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()


@contextmanager
def as_captured() -> Iterator[None]:
    """Let torch compute what a capture writes down: no fast path, nothing compiled."""
    with without_fast_path(), uncompiled():
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what torch prints about a trace that fails; pass on what it printed where it succeeds."""
    levels = {logger: logger.level for logger in map(logging.getLogger, LOUD)}
    held = io.StringIO()
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stderr(held), warnings.catch_warnings():
            warnings.filterwarnings("ignore", UNDONE)
            yield
        sys.stderr.write(held.getvalue())
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Let no search for unreachable objects run meanwhile: a trace makes many objects, and nearly all of them stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _literals_beside(model: nn.Module) -> AbstractContextManager[object]:
    """Let tensors that a weightless model writes out itself, such as `torch.tensor([1.0])`, be made weightless too."""
    return torch.device("meta") if is_weightless(model) else nullcontext()
