"""The registry of diffusers, by family: the class of a model."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from torch import nn
from zoo import diffusers_models
from zoo.attempt import Attempt
from zoo.catalogue import Inputs
from zoo.shrinking import shrunk

LIBRARY = "diffusers"

_LAYOUTS = ("image", "clip", "tokens", "wave")
_TEXT = ("encoder_hidden_states", "context", "text_hidden_states", "cap_feats", "controlnet_cond")
_TIMES = ("timestep", "timestep_r", "r_timestep", "t", "time", "sigma")


@functools.cache
def families() -> dict[str, type[nn.Module]]:
    """Every class of a model that diffusers exports."""
    named = ((name, getattr(diffusers, name, None)) for name in sorted(dir(diffusers)))
    bare = diffusers.ModelMixin
    return {name: made for name, made in named if inspect.isclass(made) and issubclass(made, bare) and made is not bare}


def covered() -> set[str]:
    """Classes with hand-shrunk entries."""
    return {class_name for _, class_name, _, _ in diffusers_models.ROWS}


def attempts(name: str) -> Iterator[Attempt]:
    """The class with small options, on images, clips, tokens and sound."""
    made = families()[name]
    signature = inspect.signature(made.__init__).parameters
    defaults = {key: p.default for key, p in signature.items() if p.default is not inspect.Parameter.empty}
    for only in (_inner, lambda option: "layers" in option):
        options = shrunk(defaults, only)
        model = functools.partial(_model, made, options)
        for layout in _LAYOUTS:
            yield Attempt(model, functools.partial(_inputs, made, options, layout))


def _inner(name: str) -> bool:
    """Whether an option is no channel count of what comes in or goes out."""
    return not name.startswith(("in_", "out_", "latent")) and "patch" not in name and "freq" not in name


def _model(made: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    return made(**options)


def _inputs(made: type[nn.Module], options: dict[str, Any], layout: str) -> Inputs:
    """Named inputs for each parameter of ``forward`` without default."""
    parameters = inspect.signature(made.forward).parameters
    needed = [key for key, p in parameters.items() if p.default is inspect.Parameter.empty and key != "self"]
    channels = next((options[key] for key in ("in_channels", "audio_channels", "input_channels") if key in options), 3)
    shapes = {
        "image": (2, channels, 32, 32),
        "clip": (2, channels, 5, 32, 32),
        "tokens": (2, 16, channels),
        "wave": (2, channels, 2048),
    }
    found: dict[str, Any] = {}
    for key in needed:
        if key in _TIMES:
            found[key] = torch.tensor([3.0, 250.0])
        elif key in _TEXT:
            found[key] = torch.randn(2, 6, _text_width(options))
        elif key.endswith("mask"):
            found[key] = torch.ones(2, 6)
        else:
            found[key] = torch.randn(shapes[layout])
    return (), found


def _text_width(options: dict[str, Any]) -> int:
    names = ("text_dim", "text_embed_dim", "caption_channels", "joint_attention_dim", "cross_attention_dim")
    width = next((options[name] for name in names if type(options.get(name)) is int), 64)
    return int(width)
