"""Inputs for a model of transformers that nobody wrote inputs for, told by the names of its forward's parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from zoo.catalogue import Inputs
from zoo.shrinking import LARGEST_TOKEN

CHOICES = 3
"""Layouts of an input that are tried in turn."""

_LENGTH = 12
_SIDES = (32, 64, 128)


def arguments(names: Iterable[str], config: Any, choice: int, pictured: int = 0) -> Inputs:
    """Named inputs of batch size 2 for a forward with parameters of these names.

    Args:
        names: Parameters of the forward.
        config: The model's configuration, already small.
        choice: Which layout, from 0 to ``CHOICES - 1``, where a name does not say it.
        pictured: Features of all the pictures, for which the text holds as many places.
    """
    known = list(names)
    made = {name: make(config, choice) for name, make in _MAKERS.items() if name in known}
    if "inputs_embeds" in known and not made:
        made["inputs_embeds"] = torch.randn(2, _LENGTH, _size(config, "hidden_size", 64))
    if not made and "hidden_states" in known:
        made["hidden_states"] = torch.randn(2, _LENGTH, _size(config, "hidden_size", 64))
    if pictured and "input_ids" in made:
        places = torch.full((2, pictured // 2), _size(config, "image_token_id", LARGEST_TOKEN))
        made["input_ids"] = torch.cat([places, made["input_ids"]], dim=1)
    if "use_cache" in known:
        made["use_cache"] = False
    return (), made


def _size(config: Any, name: str, default: int) -> int:
    """The first size of this name in a configuration or its parts."""
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))):
        value = getattr(part, name, None)
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if type(value) is int:
            return value
    return default


def _tokens(config: Any, choice: int) -> torch.Tensor:
    return torch.randint(1, min(_size(config, "vocab_size", 64), LARGEST_TOKEN - 27), (2, _LENGTH))


def _images(config: Any, choice: int) -> torch.Tensor:
    side = _size(config, "image_size", 0) or _SIDES[choice]
    side = side if choice == 0 else _SIDES[choice]
    shape = (2, _size(config, "num_channels", 3), side, side)
    frames = _size(config, "num_frames", 0)
    return torch.randn(2, frames, *shape[1:]) if frames else torch.randn(shape)


def _clips(config: Any, choice: int) -> torch.Tensor:
    side = _size(config, "image_size", 32) or _size(config, "crop_size", 32)
    return torch.randn(2, _size(config, "num_frames", 4) or 4, 3, side, side)


def _features(config: Any, choice: int) -> torch.Tensor:
    mels = _size(config, "num_mel_bins", 0) or _size(config, "feature_size", 0) or _size(config, "input_dim", 80)
    frames = 2 * _size(config, "max_source_positions", 32)
    return torch.randn((2, mels, frames) if choice == 0 else (2, 32, mels))


def _waves(config: Any, choice: int) -> torch.Tensor:
    shapes = ((2, 3200), (2, 1, 3200), (2, 64, _size(config, "num_mel_bins", 80)))
    return torch.randn(shapes[choice])


def _series(config: Any, choice: int) -> torch.Tensor:
    length = _size(config, "context_length", 32)
    lags = max(getattr(config, "lags_sequence", None) or [0])
    channels = _size(config, "num_input_channels", 1)
    return torch.randn((2, length + lags, channels) if choice == 0 else (2, length + lags))


_MAKERS: dict[str, Callable[[Any, int], Any]] = {
    "input_ids": _tokens,
    "decoder_input_ids": lambda config, choice: _tokens(config, choice)[:, :8],
    "pixel_values": _images,
    "pixel_values_videos": _clips,
    "input_features": _features,
    "input_values": _waves,
    "past_values": _series,
}
