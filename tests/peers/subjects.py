"""Tiny denoisers from configurations, with fixed random weights: what peers and graphopt are compared on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """A denoiser and how a sampling loop calls it.

    Attributes:
        make: builds the model, always with the same weights.
        latents: shape of the latents without the batch.
        conditions: the inputs that stay the same over the steps, for a batch of that size.
        arguments: what the model is called with, from latents, timestep and conditions.
        flow: whether the timestep is the noise level and the loop one of flow matching; otherwise it is DDIM.
    """

    make: Callable[[], nn.Module]
    latents: tuple[int, ...]
    conditions: Callable[[int], dict[str, Any]]
    arguments: Callable[[Tensor, Tensor, Mapping[str, Any]], Arguments]
    flow: bool = False


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew, zero-initialised gates included: a cache behind a zero gate proves nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data = noise / math.sqrt(parameter[0].numel())
        else:
            parameter.data = parameter.data.mean().round() + 0.1 * noise
    return model.eval().requires_grad_(False)


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Normal noise, the same for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _unet() -> nn.Module:
    return randomise_(
        diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            norm_num_groups=8,
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
        )
    )


_BLOCKS = {"num_attention_heads": 4, "attention_head_dim": 8, "patch_size": 2, "sample_size": 8, "out_channels": 4}


def _pixart() -> nn.Module:
    return randomise_(
        diffusers.PixArtTransformer2DModel(**_BLOCKS, num_layers=4, cross_attention_dim=32, caption_channels=16)
    )


def _dit() -> nn.Module:
    return randomise_(diffusers.DiTTransformer2DModel(**_BLOCKS, num_layers=4))


def _flux() -> nn.Module:
    return randomise_(
        diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
        )
    )


def _text(batch: int) -> dict[str, Any]:
    return {"encoder_hidden_states": normal(batch, 6, 32)}


def _caption(batch: int) -> dict[str, Any]:
    return {
        "encoder_hidden_states": normal(batch, 6, 16),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _labels(batch: int) -> dict[str, Any]:
    return {"class_labels": torch.arange(batch) * 7 % 1000}


def _flux_conditions(batch: int) -> dict[str, Any]:
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))
    return {
        "encoder_hidden_states": normal(batch, 6, 16),
        "pooled_projections": normal(batch, 16),
        "img_ids": places,
        "txt_ids": torch.zeros(6, 3),
    }


def _positional(latents: Tensor, timestep: Tensor, conditions: Mapping[str, Any]) -> Arguments:
    return (latents, timestep), {**conditions, "return_dict": False}


def _named(latents: Tensor, timestep: Tensor, conditions: Mapping[str, Any]) -> Arguments:
    times = timestep.expand(latents.shape[0])
    return (), {"hidden_states": latents, "timestep": times, **conditions, "return_dict": False}


UNET = Subject(_unet, (4, 8, 8), _text, _positional)
PIXART = Subject(_pixart, (4, 8, 8), _caption, _named)
DIT = Subject(_dit, (4, 8, 8), _labels, _named)
FLUX = Subject(_flux, (16, 16), _flux_conditions, _named, flow=True)
