"""Architectures of transformers, built from their configurations."""

import copy
from functools import partial
from typing import Any

import transformers
from torch import nn
from zoo import transformers_signals, transformers_text, transformers_vision
from zoo.catalogue import Entry, entry


def _model(class_name: str, options: dict[str, Any]) -> nn.Module:
    model_class = getattr(transformers, class_name)
    model: nn.Module = model_class(model_class.config_class(**copy.deepcopy(options)))
    return model


ENTRIES: tuple[Entry, ...] = tuple(
    entry(name, "transformers", partial(_model, class_name, options), inputs)
    for name, class_name, options, inputs in (
        *transformers_text.ROWS,
        *transformers_vision.ROWS,
        *transformers_signals.ROWS,
    )
)
"""Every entry of the three files."""
