"""Models that are spread over devices: small ones of many families, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graphopt

BATCH = 2


@dataclass(frozen=True)
class Subject:
    """A model with inputs.

    Attributes:
        name: what the tables call it.
        build: makes the model and its arguments, for a share of the full depth and width.
    """

    name: str
    build: Callable[[bool], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]

    def program(self, *, tiny: bool) -> graphopt.Program:
        """Capture the model, the same weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, args, kwargs = self.build(tiny)
            return graphopt.capture(model.eval(), args, kwargs)


def _normal(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape)


def _times() -> Tensor:
    return torch.tensor([3, 9])


def dit(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from diffusers import DiTTransformer2DModel

    size = 8 if tiny else 32
    model = DiTTransformer2DModel(
        num_attention_heads=2 if tiny else 6,
        attention_head_dim=16 if tiny else 64,
        in_channels=4,
        num_layers=4 if tiny else 12,
        sample_size=size,
        patch_size=2,
        num_embeds_ada_norm=16,
    )
    return model, (_normal(4, size, size), _times(), torch.tensor([1, 2])), {}


def pixart(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from diffusers import PixArtTransformer2DModel

    size, heads, width = (8, 2, 16) if tiny else (32, 6, 64)
    model = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width,
        in_channels=4,
        out_channels=8,
        num_layers=4 if tiny else 8,
        sample_size=size,
        patch_size=2,
        cross_attention_dim=heads * width,
        caption_channels=32,
    )
    given = {"encoder_hidden_states": _normal(8, 32), "timestep": _times()}
    return model, (_normal(4, size, size),), given


def stable_diffusion_3(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from diffusers import SD3Transformer2DModel

    size, heads, width = (8, 2, 16) if tiny else (32, 6, 64)
    model = SD3Transformer2DModel(
        sample_size=size,
        patch_size=2,
        in_channels=4,
        num_layers=4 if tiny else 8,
        attention_head_dim=width,
        num_attention_heads=heads,
        joint_attention_dim=32,
        caption_projection_dim=heads * width,
        pooled_projection_dim=32,
        pos_embed_max_size=size,
        out_channels=4,
    )
    given = {"encoder_hidden_states": _normal(8, 32), "pooled_projections": _normal(32), "timestep": _times()}
    return model, (_normal(4, size, size),), given


def flux(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from diffusers import FluxTransformer2DModel

    tokens, heads = (16, 2) if tiny else (256, 12)
    model = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2 if tiny else 3,
        num_single_layers=2 if tiny else 6,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
    )
    given = {
        "encoder_hidden_states": _normal(8, 32),
        "pooled_projections": _normal(32),
        "timestep": torch.rand(BATCH),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(8, 3),
    }
    return model, (_normal(tokens, 16),), given


def unet(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from diffusers import UNet2DModel

    size, channels = (16, (32, 64)) if tiny else (32, (64, 128, 256))
    attention = ("AttnDownBlock2D", "AttnUpBlock2D")
    model = UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=channels,
        layers_per_block=1 if tiny else 2,
        down_block_types=("DownBlock2D", *(attention[0],) * (len(channels) - 1)),
        up_block_types=(*(attention[1],) * (len(channels) - 1), "UpBlock2D"),
    )
    return model, (_normal(3, size, size), _times()), {}


def stable_diffusion_1(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from diffusers import UNet2DConditionModel

    size, channels = (8, (32, 64)) if tiny else (32, (64, 128, 256, 256))
    model = UNet2DConditionModel(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=1 if tiny else 2,
        down_block_types=(*("CrossAttnDownBlock2D",) * (len(channels) - 1), "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * (len(channels) - 1)),
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    return model, (_normal(4, size, size), _times(), _normal(8, 32)), {}


def vit(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32 if tiny else 384,
        num_hidden_layers=4 if tiny else 12,
        num_attention_heads=2 if tiny else 6,
        intermediate_size=64 if tiny else 1536,
        image_size=32 if tiny else 128,
        patch_size=8,
        num_labels=10,
    )
    return ViTForImageClassification(config), (_normal(3, config.image_size, config.image_size),), {}


def llama(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64 if tiny else 4000,
        hidden_size=32 if tiny else 384,
        intermediate_size=64 if tiny else 1024,
        num_hidden_layers=4 if tiny else 12,
        num_attention_heads=2 if tiny else 6,
        num_key_value_heads=1 if tiny else 2,
        use_cache=False,
    )
    tokens = torch.randint(1, config.vocab_size, (BATCH, 8 if tiny else 256))
    return LlamaForCausalLM(config), (tokens,), {"use_cache": False}


def t5(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=64 if tiny else 4000,
        d_model=32 if tiny else 256,
        d_kv=16 if tiny else 32,
        d_ff=64 if tiny else 1024,
        num_layers=2 if tiny else 6,
        num_heads=2 if tiny else 8,
        use_cache=False,
    )
    length = 8 if tiny else 128
    tokens, targets = (torch.randint(1, config.vocab_size, (BATCH, length)) for _ in range(2))
    given = {"input_ids": tokens, "decoder_input_ids": targets, "use_cache": False}
    return T5ForConditionalGeneration(config), (), given


def resnet(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from torchvision.models import resnet18, resnet50

    model = resnet18(num_classes=10) if tiny else resnet50(num_classes=10)
    return model, (_normal(3, 32, 32) if tiny else _normal(3, 160, 160),), {}


def swin(tiny: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from torchvision.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=32 if tiny else 64,
        depths=[1, 1] if tiny else [2, 2, 6, 2],
        num_heads=[2, 4] if tiny else [2, 4, 8, 16],
        window_size=[4, 4] if tiny else [7, 7],
        num_classes=10,
    )
    return model, (_normal(3, 32, 32) if tiny else _normal(3, 224, 224),), {}


SUBJECTS: dict[str, Subject] = {
    name: Subject(name, build)
    for name, build in {
        "DiT": dit,
        "PixArt": pixart,
        "SD3": stable_diffusion_3,
        "Flux": flux,
        "U-Net": unet,
        "SD1.5": stable_diffusion_1,
        "ViT": vit,
        "Llama": llama,
        "T5": t5,
        "ResNet": resnet,
        "Swin": swin,
    }.items()
}
"""Every model by name."""
