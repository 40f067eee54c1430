"""The denoisers that caches are timed on: shaped like known ones, small enough for one thread, random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
from peers.subjects import PIXART, UNET, Arguments, Subject, normal, randomise_
from torch import Tensor, nn

TEXT_TOKENS = 77
TEXT_WIDTH = 256


@dataclass(frozen=True)
class Timed:
    """A denoiser and what tells its full steps from its cached ones.

    Attributes:
        subject: the denoiser and how a loop calls it, with both guidance branches in one batch.
        deep: names a module that runs at full steps and at no cached one, whatever the cache.
    """

    subject: Subject
    deep: str


def _unet() -> nn.Module:
    """Stable Diffusion 1.5 with a fifth of its channels."""
    model = diffusers.UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(64, 128, 256, 256),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )
    return randomise_(model)


def _dit() -> nn.Module:
    """PixArt with 12 blocks of width 384 on 16 x 16 patches."""
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=64,
        num_layers=12,
        cross_attention_dim=384,
        caption_channels=TEXT_WIDTH,
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
    )
    return randomise_(model)


def _text(batch: int) -> dict[str, Any]:
    return {"encoder_hidden_states": normal(batch, TEXT_TOKENS, TEXT_WIDTH)}


def _caption(batch: int) -> dict[str, Any]:
    return {**_text(batch), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def _positional(latents: Tensor, timestep: Tensor, conditions: Mapping[str, Any]) -> Arguments:
    return (latents, timestep), {**conditions, "return_dict": False}


def _named(latents: Tensor, timestep: Tensor, conditions: Mapping[str, Any]) -> Arguments:
    times = timestep.expand(latents.shape[0])
    return (), {"hidden_states": latents, "timestep": times, **conditions, "return_dict": False}


FULL_SIZE: Mapping[str, Callable[[], Timed]] = {
    "unet": lambda: Timed(Subject(_unet, (4, 32, 32), _text, _positional), "mid_block.resnets.0.conv1"),
    "dit": lambda: Timed(Subject(_dit, (4, 32, 32), _caption, _named), "transformer_blocks.11.attn1.to_q"),
}
QUICK: Mapping[str, Callable[[], Timed]] = {
    "unet": lambda: Timed(UNET, "mid_block.resnets.0.conv1"),
    "dit": lambda: Timed(PIXART, "transformer_blocks.3.attn1.to_q"),
}
