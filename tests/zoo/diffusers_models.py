"""Architectures of diffusers, built from their configurations."""

import copy
from functools import partial
from typing import Any

import diffusers
from torch import nn
from zoo import (
    diffusers_autoencoders,
    diffusers_controls,
    diffusers_images,
    diffusers_sounds,
    diffusers_transformers,
    diffusers_unets,
    diffusers_videos,
)
from zoo.catalogue import Entry, entry, tensors
from zoo.diffusers_unets import Row


def _model(class_name: str, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = getattr(diffusers, class_name)(**copy.deepcopy(options))
    steered = diffusers_controls.STEERED.get(class_name)
    return model if steered is None else steered(model)


ROWS: tuple[Row, ...] = (
    *diffusers_unets.ROWS,
    *diffusers_transformers.ROWS,
    *diffusers_autoencoders.ROWS,
    *diffusers_images.ROWS,
    *diffusers_videos.ROWS,
    *diffusers_sounds.ROWS,
    *diffusers_controls.ROWS,
)
"""The rows of every file."""

ENTRIES: tuple[Entry, ...] = tuple(
    entry(name, "diffusers", partial(_model, class_name, options), tensors(**inputs))
    for name, class_name, options, inputs in ROWS
)
"""An entry for each row."""
