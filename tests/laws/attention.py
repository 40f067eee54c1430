"""Attention in the forms that models write it in."""

import math
from dataclasses import dataclass

import torch
from laws.shapes import Block, Shape
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Attention(Block):
    """Self-attention.

    ``fused``: how queries, keys and values come out of the weights: ``separate`` maps, ``chunk``, ``view`` or ``split``
    of one map, ``einsum`` with raw parameters. ``core``: ``sdpa``, ``by_hand``, ``linear`` (no softmax, elu + 1) or
    ``relu`` (no softmax, relu). ``rotation``: none, ``half`` or ``interleaved``. ``keys``: number of key heads.
    ``share``: how fewer key heads serve all queries: ``gqa``, ``interleave`` or ``expand``.
    """

    heads: int
    inner: int
    keys: int
    fused: str = "separate"
    core: str = "sdpa"
    rotation: str = "none"
    share: str = "gqa"
    norm: bool = False
    causal: bool = False

    def build(self, shape: Shape) -> nn.Module:
        return SelfAttention(self, shape)


class SelfAttention(nn.Module):
    def __init__(self, spec: Attention, shape: Shape) -> None:
        super().__init__()
        self.spec = spec
        channels, width, narrow = shape.channels, spec.heads * spec.inner, spec.keys * spec.inner
        if spec.fused == "einsum":
            self.raw = nn.ParameterList(
                nn.Parameter(torch.randn(channels, heads, spec.inner) / channels**0.5)
                for heads in (spec.heads, spec.keys, spec.keys)
            )
        elif spec.fused == "separate":
            self.query = nn.Linear(channels, width)
            self.key = nn.Linear(channels, narrow, bias=False)
            self.value = nn.Linear(channels, narrow)
        else:
            self.all = nn.Linear(channels, width + 2 * narrow)
        self.norms = nn.ModuleList(nn.RMSNorm(spec.inner) for _ in range(2 if spec.norm else 0))
        self.out = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.projected(x)
        if self.spec.norm:
            query, key = self.norms[0](query), self.norms[1](key)
        if self.spec.rotation != "none":
            cos, sin = angles(x, self.spec.inner)
            query, key = (rotated(item, cos, sin, self.spec.rotation) for item in (query, key))
        mixed = self.mixed(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spec = self.spec
        if spec.fused == "einsum":
            query, key, value = (torch.einsum("btc,chd->bhtd", x, weight) for weight in self.raw)
            return query, key, value
        if spec.fused == "view":
            packed = self.all(x).unflatten(2, (3, spec.heads, spec.inner)).permute(2, 0, 3, 1, 4)
            return packed[0], packed[1], packed[2]
        if spec.fused == "separate":
            parts = self.query(x), self.key(x), self.value(x)
        elif spec.fused == "chunk":
            parts = self.all(x).chunk(3, -1)
        else:
            narrow = spec.keys * spec.inner
            parts = self.all(x).split([spec.heads * spec.inner, narrow, narrow], -1)
        query, key, value = (part.unflatten(2, (-1, spec.inner)).transpose(1, 2) for part in parts)
        return query, key, value

    def shared(self, item: Tensor) -> Tensor:
        """Key heads as often as there are queries to serve."""
        repeats = self.spec.heads // self.spec.keys
        if repeats == 1:
            return item
        if self.spec.share == "interleave":
            return item.repeat_interleave(repeats, 1)
        batch, heads, tokens, inner = item.shape
        return item[:, :, None].expand(batch, heads, repeats, tokens, inner).reshape(batch, -1, tokens, inner)

    def mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        spec = self.spec
        if spec.core == "sdpa" and spec.share == "gqa" and spec.keys != spec.heads:
            return functional.scaled_dot_product_attention(query, key, value, is_causal=spec.causal, enable_gqa=True)
        key, value = self.shared(key), self.shared(value)
        if spec.core == "sdpa":
            return functional.scaled_dot_product_attention(query, key, value, is_causal=spec.causal)
        if spec.core == "by_hand":
            scores = query @ key.transpose(-1, -2) / math.sqrt(spec.inner)
            if spec.causal:
                later = torch.ones_like(scores, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, -torch.inf)
            return scores.softmax(-1) @ value
        if spec.core == "linear":
            query, key = functional.elu(query) + 1, functional.elu(key) + 1
        else:
            query, key = torch.relu(query), torch.relu(key)
        state = key.transpose(-1, -2) @ value
        total = query @ key.sum(-2, keepdim=True).transpose(-1, -2)
        return query @ state / (total + 1)


def angles(x: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    """Rotary tables built in the graph, each (tokens, inner // 2)."""
    rates = 1.0 / 100 ** (torch.arange(0, inner, 2, dtype=x.dtype) / inner)
    phase = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * rates
    return phase.cos(), phase.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor, form: str) -> Tensor:
    if form == "half":
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        return x * torch.cat([cos, cos], -1) + turned * torch.cat([sin, sin], -1)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
