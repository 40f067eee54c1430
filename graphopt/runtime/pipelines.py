"""Caches in and out of pipelines and models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from graphopt.errors import GraphoptError
from graphopt.pass_manager import Pass, PassContext, Pipeline, Result
from graphopt.runtime.origin import require_origin
from graphopt.runtime.preparation import Preparation, require_own_forward
from graphopt.runtime.stand_in import CachedDenoiser

DENOISERS = ("unet", "transformer", "transformer_2", "prior")
"""Attributes under which a pipeline may hold a model that it calls at each step."""


def enable_cache(
    pipe_or_model: Any,
    passes: str | Pass | Sequence[Pass] | Result,
    *,
    context: PassContext | None = None,
    scheduler: Any = None,
) -> Any:
    """Let a pipeline, or a model in a loop of one's own, run the programs of a caching pass.

    In a pipeline a stand-in takes the place of each denoiser; it is called in the same way, and everything else asked
    of it goes to the model. Model, classes and configuration are not written to. A cache enabled before is replaced.

    Args:
        pipe_or_model: a pipeline with a U-Net or transformer, or such a model itself.
        passes: text of a pipeline of passes, such as ``deepcache{interval=3}``, or passes: run at the first call with
            inputs of each structure and size. Or a result, for one model: what it was made for is then all that can be
            called.
        context: data and seed for the passes.
        scheduler: of a loop of one's own; it tells steps and generations. A pipeline's own by default.

    Returns:
        The pipeline; for a model its stand-in, which is to be called instead.

    Raises:
        GraphoptError: there is no denoiser, or the model is not as its class defines it; or a result was made for
            another model, or is given for several.
        SpecError: the text is wrong.
    """
    pipeline = passes if isinstance(passes, Result) else Pipeline(passes)

    def stand_in(model: nn.Module, of: Callable[[], Any]) -> CachedDenoiser:
        model = _clean(model)
        require_own_forward(model)
        if isinstance(pipeline, Result):
            require_origin(pipeline, model)
        return CachedDenoiser(model, Preparation(model, pipeline, context), of)

    if isinstance(pipe_or_model, nn.Module):
        return stand_in(pipe_or_model, lambda: scheduler)
    pipe = pipe_or_model
    denoisers = _denoisers(pipe)
    if isinstance(pipeline, Result) and len(denoisers) > 1:
        raise GraphoptError(
            f"{type(pipe).__name__} has the denoisers {', '.join(denoisers)}, and a result is of one model; enable the "
            "cache on each model itself, with a result of its own, or give the text of the passes"
        )
    made = {
        name: stand_in(model, lambda: getattr(pipe, "scheduler", None) if scheduler is None else scheduler)
        for name, model in denoisers.items()
    }
    for name, module in made.items():
        _put(pipe, name, module)
    return pipe


def disable_cache(pipe_or_model: Any) -> Any:
    """Take a cache out again; nothing of it is left, and where there is none nothing happens.

    Args:
        pipe_or_model: what was given to `enable_cache`, or the stand-in that it returned.

    Returns:
        The pipeline, or the model itself.

    Raises:
        GraphoptError: there is no denoiser.
    """
    if isinstance(pipe_or_model, nn.Module):
        return _clean(pipe_or_model)
    for name, model in _denoisers(pipe_or_model).items():
        if _clean(model) is not model:
            _put(pipe_or_model, name, _clean(model))
    return pipe_or_model


def _denoisers(pipe: Any) -> dict[str, nn.Module]:
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    models = {name: model for name, model in found.items() if isinstance(model, nn.Module)}
    if not models:
        raise GraphoptError(
            f"{type(pipe).__name__} has no model under {', '.join(DENOISERS)}, wanted a pipeline with a denoiser; give "
            "the model itself and call the stand-in that comes back"
        )
    return models


def _clean(model: nn.Module) -> nn.Module:
    return model.uncached if isinstance(model, CachedDenoiser) else model


def _put(pipe: Any, name: str, model: nn.Module) -> None:
    """Set an attribute past the class's own `__setattr__`, which may write what it is given into a configuration."""
    object.__setattr__(pipe, name, model)
