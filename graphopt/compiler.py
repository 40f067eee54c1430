"""The public call that does everything: capture a model and run passes over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from graphopt.pass_manager import Instrument, Pass, PassContext, Pipeline, Result
from graphopt.tracing import capture


def optimize(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    passes: str | Pass | Sequence[Pass],
    context: PassContext | None = None,
    instruments: Sequence[Instrument] = (),
) -> Result:
    """Capture a model and run passes over it.

    Args:
        model: the model; neither its weights nor their gradients are written.
        args: example positional inputs.
        kwargs: example keyword inputs.
        passes: text of a pipeline, such as ``"prune-channels{ratio=0.5}"``, or passes.
        context: data, loss and seed for the passes.
        instruments: what watches the passes run.

    Raises:
        CaptureError: if the model cannot be captured.
        GraphoptError: if a pass fails.
    """
    pipeline = Pipeline(passes)
    return pipeline.run(capture(model, args, kwargs), context, instruments=instruments)
