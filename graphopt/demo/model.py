"""A class-conditional diffusion transformer small enough to train on two CPU cores."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of a diffusion transformer.

    Attributes:
        image_size: Height and width of the (square) images in pixels.
        patch_size: Height and width of one patch in pixels.
        channels: Image channels.
        width: Length of a token's vector.
        depth: Number of transformer blocks.
        heads: Attention heads per block.
        mlp_ratio: Hidden width of a block's MLP over ``width``.
        classes: Number of classes; label ``classes`` is the null class of classifier-free guidance.
    """

    image_size: int = 8
    patch_size: int = 2
    channels: int = 1
    width: int = 96
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    classes: int = 10


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of the diffusion time, then a two-layer MLP.

    Args:
        width: Length of the sinusoidal features and of the result.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.hidden = nn.Linear(2 * half, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Embed times.

        Args:
            t: (batch,) diffusion times in [0, 1].

        Returns:
            (batch, width) embeddings.
        """
        angles = 1000.0 * t[:, None] * self.frequencies
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedded: Tensor = self.out(functional.silu(self.hidden(features)))
        return embedded


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    Args:
        width: Length of a token's vector.
        heads: Number of heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens: (batch, tokens, width) to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class DiTBlock(nn.Module):
    """A transformer block whose norms are modulated by the condition and whose branches start as zero (adaLN-Zero).

    Args:
        width: Length of a token's vector and of the condition.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over ``width``.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.fc1 = nn.Linear(width, mlp_ratio * width)
        self.fc2 = nn.Linear(mlp_ratio * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Update tokens ``x: (batch, tokens, width)`` under ``condition: (batch, width)``."""
        parts = self.modulation(condition).unsqueeze(1).chunk(6, dim=2)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        hidden = functional.gelu(self.fc1(self.norm2(x) * (1 + scale2) + shift2), approximate="tanh")
        updated: Tensor = x + gate2 * self.fc2(hidden)
        return updated


class DiT(nn.Module):
    """Diffusion transformer with adaLN-Zero blocks.

    Args:
        config: Sizes; the default fits scikit-learn's 8x8 digits.

    References:
        Peebles and Xie, Scalable Diffusion Models with Transformers, ICCV 2023, arXiv 2212.09748. Departures: the
        position table is learned; it and the labels start large (standard deviation 0.3), because a minute of training
        is not enough to grow them from 0.02; and the variance is not predicted.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image_size // config.patch_size
        self.patchify = nn.Conv2d(config.channels, config.width, config.patch_size, stride=config.patch_size)
        self.position = nn.Parameter(torch.empty(1, side * side, config.width))
        self.time = TimestepEmbedding(config.width)
        self.label = nn.Embedding(config.classes + 1, config.width)
        self.blocks = nn.ModuleList(DiTBlock(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.patch_size**2 * config.channels)
        self._initialize()

    def _initialize(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                starts_as_zero = name.endswith("modulation") or name == "out"
                _initialize_linear(module, starts_as_zero)
        for table in (self.position, self.label.weight):
            nn.init.normal_(table, std=0.3)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict the training target of a noised batch.

        Args:
            x: (batch, channels, image_size, image_size) noised images.
            t: (batch,) diffusion times in [0, 1].
            y: (batch,) int64 labels; ``config.classes`` stands for no label.

        Returns:
            The prediction, shaped as ``x``.
        """
        tokens = self.patchify(x).flatten(2).transpose(1, 2) + self.position
        condition = functional.silu(self.time(t) + self.label(y))
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=2)
        return self._unpatchify(self.out(self.norm(tokens) * (1 + scale) + shift))

    def _unpatchify(self, patches: Tensor) -> Tensor:
        """Put (batch, tokens, patch * patch * channels) back on the image grid."""
        config = self.config
        side = config.image_size // config.patch_size
        grid = patches.view(-1, side, side, config.patch_size, config.patch_size, config.channels)
        image = grid.permute(0, 5, 1, 3, 2, 4)
        return image.reshape(-1, config.channels, config.image_size, config.image_size)


def _initialize_linear(module: nn.Linear, starts_as_zero: bool) -> None:
    if starts_as_zero:
        nn.init.zeros_(module.weight)
    else:
        nn.init.xavier_uniform_(module.weight)
    nn.init.zeros_(module.bias)
