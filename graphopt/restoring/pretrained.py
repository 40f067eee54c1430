"""Saving a smaller model the way its own library does, so that its own `from_pretrained` loads it."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from graphopt.assembly import named_attributes
from graphopt.capture_failure import Attempt, summary
from graphopt.errors import ModuleRestoreError
from graphopt.proof.check import equal
from graphopt.restoring.agreement import require_agreement
from graphopt.restoring.configuration import fitting
from graphopt.restoring.floats import common_floats
from graphopt.restoring.reasons import reason
from graphopt.restoring.restore import Restoration
from graphopt.restoring.tensors import put_tensors


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        path: the folder.
        form: ``pretrained`` where the class's own ``from_pretrained`` loads it, ``graphopt`` where `graphopt.load`
            does, with a model as it was before the passes.
        reason: why it is not the class's own form; empty where it is.
    """

    path: Path
    form: str
    reason: str = ""


def save_pretrained(restoration: Restoration, folder: Path) -> None:
    """Write a model with its class's own `save_pretrained`, and prove that its `from_pretrained` gives the same.

    Args:
        restoration: the model that came back, and the program that it computes.
        folder: where to; files of the same names are replaced, and nothing is written where this fails.

    Raises:
        ModuleRestoreError: the class cannot be saved so, or no configuration describes the result.
    """
    model, program = restoration.model, restoration.program
    kind = type(model)
    if not all(callable(getattr(kind, name, None)) for name in ("save_pretrained", "from_pretrained")):
        raise ModuleRestoreError(f"{kind.__name__} has no save_pretrained and from_pretrained")
    built = _built(restoration)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        with Attempt() as attempt, contextlib.redirect_stderr(io.StringIO()):
            cast(Any, built).save_pretrained(place)
            loaded = cast(Any, kind).from_pretrained(place)
        if attempt.failure is not None:
            raise ModuleRestoreError(f"{kind.__name__} cannot be saved: {summary(attempt.failure)}")
        require_agreement(loaded.eval(), program, lambda failure: f"what from_pretrained loads differs: {failure}")
        folder.mkdir(exist_ok=True)
        for path in sorted(Path(place).iterdir()):
            shutil.move(path, folder / path.name)


def _built(restoration: Restoration) -> nn.Module:
    """The class built from the configuration that describes the result, with the result's weights."""
    recipe = fitting(restoration.model, restoration.module, restoration.read)
    with torch.random.fork_rng(devices=[]):
        floats = common_floats(recipe.build(), restoration.module)
        built = recipe.with_floats(floats).build()
    made = {name: one.value for name, one in named_attributes(built).items() if not one.persistent}
    held = {name: one.value for name, one in named_attributes(restoration.module).items()}
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    tensors |= {**restoration.program.parameters, **restoration.unread}
    for name, value in made.items():
        if name in tensors and isinstance(value, Tensor) and not equal(value, tensors[name]):
            raise ModuleRestoreError(
                f"no configuration describes the result: the class makes {name} anew, and the result holds other "
                "values; leave the axes on it whole"
            )
    put_tensors(built, tensors)
    left = restoration.undo_constants(built)
    name = type(built).__name__
    require_agreement(built.eval(), restoration.program, lambda failure: reason(name, failure, (), left))
    return built
