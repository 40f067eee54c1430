"""Architectures of transformers, built from their configurations."""

import copy
from functools import partial
from typing import Any

import transformers
from torch import nn
from zoo import (
    transformers_dense,
    transformers_hybrids,
    transformers_signals,
    transformers_text,
    transformers_together,
    transformers_vision,
)
from zoo.catalogue import Entry, entry
from zoo.transformers_text import Row


def _model(class_name: str, options: dict[str, Any]) -> nn.Module:
    model_class = getattr(transformers, class_name)
    model: nn.Module = model_class(model_class.config_class(**copy.deepcopy(options)))
    return model


ROWS: tuple[Row, ...] = (
    *transformers_text.ROWS,
    *transformers_vision.ROWS,
    *transformers_signals.ROWS,
    *transformers_hybrids.ROWS,
    *transformers_dense.ROWS,
    *transformers_together.ROWS,
)
"""The rows of every file."""

ENTRIES: tuple[Entry, ...] = tuple(
    entry(name, "transformers", partial(_model, class_name, options), inputs)
    for name, class_name, options, inputs in ROWS
)
"""An entry for each row."""
