"""Small models that keep their sizes in as many ways as real ones do."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Heads and head size as attributes; the scale is torch's own, which follows the head size."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class Configured(nn.Module):
    """Sizes in an object that several layers share; the scale is derived from one of them."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.config.heads, self.config.head_dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / self.config.head_dim**0.5
        out = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.out(out.reshape(*x.shape[:-1], self.config.heads * self.config.head_dim))


class Block(nn.Module):
    def __init__(self, mixer: nn.Module, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """Embedding, blocks, head."""

    def __init__(self, mixers: list[nn.Module], width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(12, width)
        self.blocks = nn.ModuleList(Block(mixer, width) for mixer in mixers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Literal(Attention):
    """The number of heads is written out in the code."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        return self.proj(out.transpose(1, 2).reshape(b, n, -1))


class Convolutions(nn.Module):
    """Groups, split sizes in a list, a group norm, a buffer that a channel axis lies on."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.parts = [8, 8]
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.register_buffer("shift", torch.randn(16, 1, 1), persistent=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.stem(x)) + self.shift).relu()
        left, right = x.split(self.parts, dim=1)
        return self.head((self.left(left) + self.right(right)).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM, whose layer keeps a list of its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.lstm(self.embed(x))[0])


def seeded(make: Any) -> nn.Module:
    """A model with the same weights at every call, in evaluation form."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = make().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 * 1.5)
            else:
                nn.init.normal_(parameter, std=0.3)
        return model
