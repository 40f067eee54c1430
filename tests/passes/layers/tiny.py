"""Tiny models with residual branches and blocks, every weight drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


class Branch(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Stack(nn.Module):
    """Residual branches of different sizes."""

    def __init__(self, hidden: tuple[int, ...] = (8, 40, 16, 24)) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 12)
        self.branches = nn.ModuleList(Branch(12, size) for size in hidden)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = branch(x)
        return self.head(x)


def draw_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew: zero-initialised gates hide what a bypass does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = spread * noise + (0 if parameter.ndim > 1 else parameter.data.mean().round())
    return model.eval().requires_grad_(False)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stack() -> Built:
    return draw_(Stack()), (normal(4, 6, 5),), {}


def vit() -> Built:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=10
    )
    return draw_(model), (normal(2, 3, 16, 16),), {}


def resnet() -> Built:
    import torchvision

    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 2, 1, 1], width_per_group=64)
    return draw_(model), (normal(2, 3, 32, 32),), {}


def llama() -> Built:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    tokens = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    model = transformers.LlamaForCausalLM(config)
    return draw_(model), (), {"input_ids": tokens, "use_cache": False, "return_dict": False}


def pixart() -> Built:
    import diffusers

    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=32,
        sample_size=8,
        caption_channels=24,
        norm_type="ada_norm_single",
    )
    conditions = {
        "encoder_hidden_states": normal(2, 5, 24),
        "timestep": torch.tensor([3, 5]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "return_dict": False,
    }
    return draw_(model), (normal(2, 4, 8, 8),), conditions


def flux() -> Built:
    import diffusers

    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=False,
    )
    inputs = {
        "hidden_states": normal(2, 16, 4),
        "encoder_hidden_states": normal(2, 5, 32),
        "pooled_projections": normal(2, 32),
        "timestep": torch.tensor([0.5, 0.6]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
        "return_dict": False,
    }
    return draw_(model), (), inputs


def unet() -> Built:
    import diffusers

    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    inputs = (normal(2, 4, 8, 8), torch.tensor([3, 5]), normal(2, 5, 32))
    return draw_(model), inputs, {"return_dict": False}


MODELS: dict[str, Callable[[], Built]] = {
    "stack": stack,
    "vit": vit,
    "resnet": resnet,
    "llama": llama,
    "pixart": pixart,
    "flux": flux,
    "unet": unet,
}
