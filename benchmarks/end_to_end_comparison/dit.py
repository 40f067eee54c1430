"""A diffusion transformer in plain PyTorch.

Peebles and Xie, Scalable Diffusion Models with Transformers, ICCV 2023, arXiv 2212.09748.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from end_to_end_comparison.unet_parts import sinusoids

FREQUENCIES = 256
"""Sinusoids of a timestep."""
CLASSES = 1000
"""Of ImageNet."""


@dataclass(frozen=True)
class DiTSize:
    """Sizes of a DiT; the defaults are those of XL/2 on 32 × 32 latents.

    Attributes:
        width: of a token.
        depth: number of blocks.
        heads: of every attention.
        side: of the latents.
        patch: side of what becomes one token.
    """

    width: int = 1152
    depth: int = 28
    heads: int = 16
    side: int = 32
    patch: int = 2


class Block(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.modulation(F.silu(condition)).unsqueeze(1).chunk(6, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        x = x + gate * self._attention(self.norm1(x) * (1 + scale) + shift)
        hidden = self.norm2(x) * (1 + mlp_scale) + mlp_shift
        return x + mlp_gate * self.fc2(F.gelu(self.fc1(hidden), approximate="tanh"))

    def _attention(self, x: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(*heads)
        return self.proj(attended.transpose(1, 2).flatten(2))


class DiT(nn.Module):
    """Denoises latents (N, 4, side, side) at timesteps (N,), given classes (N,); twice the channels come out."""

    def __init__(self, size: DiTSize) -> None:
        super().__init__()
        width = size.width
        self.size = size
        self.embed = nn.Conv2d(4, width, size.patch, stride=size.patch)
        self.register_buffer("places", _places(size.side // size.patch, width))
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(CLASSES + 1, width)  # the last one stands for no class
        self.blocks = nn.ModuleList(Block(width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, 8 * size.patch**2)

    def forward(self, latents: Tensor, timesteps: Tensor, classes: Tensor) -> Tensor:
        x = self.embed(latents).flatten(2).transpose(1, 2) + self.places
        condition = self.time(sinusoids(timesteps, FREQUENCIES).to(latents.dtype)) + self.classes(classes)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        return self._picture(self.head(self.norm(x) * (1 + scale) + shift))

    def _picture(self, tokens: Tensor) -> Tensor:
        """Patches in rows and columns: (N, tokens, patch² · 8) to (N, 8, side, side)."""
        patch, count = self.size.patch, self.size.side // self.size.patch
        grid = tokens.reshape(-1, count, count, patch, patch, 8)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, 8, self.size.side, self.size.side)


def _places(count: int, width: int) -> Tensor:
    """Sinusoids of rows, then of columns: (1, count², width)."""
    one = sinusoids(torch.arange(count), width // 2)
    rows = one[:, None].expand(count, count, -1)
    return torch.cat([rows, rows.transpose(0, 1)], dim=-1).reshape(1, count**2, width)
