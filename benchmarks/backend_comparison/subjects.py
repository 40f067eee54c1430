"""Models that are masked and compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Subject:
    """A model with its inputs.

    Attributes:
        model: in evaluation mode, random weights.
        args: positional inputs.
        kwargs: keyword inputs.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def resnet50(*, quick: bool) -> Subject:
    """torchvision's ResNet-50; BatchNorm has statistics of its own, as after training."""
    from torchvision.models import ResNet, resnet
    from torchvision.models.resnet import BasicBlock, Bottleneck

    torch.manual_seed(0)
    model = ResNet(BasicBlock, [1, 1, 1, 1]) if quick else resnet.ResNet(Bottleneck, [3, 4, 6, 3])
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return Subject(model.eval(), (torch.randn(2, 3, 64 if quick else 224, 64 if quick else 224),), {})


def vit(*, quick: bool) -> Subject:
    """timm's ViT-S/16."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    size, width, depth = (64, 96, 2) if quick else (224, 384, 12)
    model = VisionTransformer(img_size=size, embed_dim=width, depth=depth, num_heads=width // 48)
    return Subject(model.eval(), (torch.randn(2, 3, size, size),), {})


def unet(*, quick: bool) -> Subject:
    """diffusers' U-Net of Stable Diffusion 1.5's structure, narrower."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    widths, size = ((32, 64), 8) if quick else ((128, 256, 256), 32)
    model = UNet2DConditionModel(
        sample_size=size,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * (len(widths) - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(widths) - 1),
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    args = (torch.randn(2, 4, size, size), torch.tensor(500), torch.randn(2, 7, 64))
    return Subject(model.eval(), args, {"return_dict": False})


SUBJECTS: dict[str, Callable[..., Subject]] = {"resnet50": resnet50, "vit": vit, "unet": unet}
"""By name; each takes ``quick`` for a tiny one."""
