"""Pipelines of diffusers built from configurations: small, offline, always with the same weights."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from peers.subjects import DIT, FLUX, PIXART, UNET, normal, randomise_
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
TOKENS = (*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "at</w>", "cat</w>", "<|startoftext|>", "<|endoftext|>")
START, END = len(TOKENS) - 2, len(TOKENS) - 1


def tokenizer() -> Any:
    """A tokenizer of letters and one word, for prompts of up to six tokens."""
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    return CLIPTokenizer(vocab=vocabulary, merges=[("a", "t</w>"), ("c", "at</w>")], model_max_length=6)


def text_encoder() -> nn.Module:
    """A text encoder whose width is the U-Net's cross-attention's."""
    config = CLIPTextConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=6,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    return randomise_(CLIPTextModel(config), seed=1)


def vae(latent_channels: int = 4) -> nn.Module:
    """An autoencoder with two levels: images are twice as wide as latents."""
    return randomise_(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=latent_channels,
            norm_num_groups=4,
            sample_size=16,
        ),
        seed=2,
    )


def ddim() -> Any:
    """DDIM predicting velocity, which keeps latents of random weights bounded."""
    return diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction", steps_offset=1)


def _stable_diffusion(kind: Any, scheduler: Any, **more: Any) -> Any:
    pipe = kind(
        vae=vae(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        unet=UNET.make(),
        scheduler=scheduler or ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )
    return _quiet(pipe)


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion(scheduler: Any = None) -> Any:
    """Text to image on a U-Net."""
    return _stable_diffusion(diffusers.StableDiffusionPipeline, scheduler)


def image_to_image(scheduler: Any = None) -> Any:
    """Image to image on a U-Net: the loop starts midway."""
    return _stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline, scheduler)


def controlnet(scheduler: Any = None) -> Any:
    """Text to image on a U-Net that is steered by a ControlNet."""
    control = randomise_(
        diffusers.ControlNetModel(
            block_out_channels=(16, 32, 32),
            norm_num_groups=8,
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            conditioning_embedding_out_channels=(8, 8),
        ),
        seed=3,
    )
    return _stable_diffusion(diffusers.StableDiffusionControlNetPipeline, scheduler, controlnet=control)


def pixart() -> Any:
    """Text to image on a transformer, both guidance branches in one batch."""
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae(), "transformer": PIXART.make(), "scheduler": ddim()}
    return _quiet(diffusers.PixArtAlphaPipeline(**parts))


def dit() -> Any:
    """Class to image on a transformer."""
    return _quiet(diffusers.DiTPipeline(transformer=DIT.make(), vae=vae(), scheduler=ddim()))


def flux() -> Any:
    """Text to image on a two-stream transformer, guidance branches one after the other."""
    return _quiet(
        diffusers.FluxPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=vae(4),
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=FLUX.make(),
        )
    )


def pixart_prompt(batch: int = 1) -> dict[str, Tensor]:
    """Embeddings that stand for a prompt and for its negative."""
    return {
        "prompt_embeds": normal(batch, 6, 16, seed=11),
        "prompt_attention_mask": torch.ones(batch, 6),
        "negative_prompt_embeds": normal(batch, 6, 16, seed=12),
        "negative_prompt_attention_mask": torch.ones(batch, 6),
    }


def flux_prompt(batch: int = 1) -> dict[str, Tensor]:
    """Embeddings that stand for a prompt and for its negative."""
    return {
        "prompt_embeds": normal(batch, 6, 16, seed=11),
        "pooled_prompt_embeds": normal(batch, 16, seed=12),
        "negative_prompt_embeds": normal(batch, 6, 16, seed=13),
        "negative_pooled_prompt_embeds": normal(batch, 16, seed=14),
    }
