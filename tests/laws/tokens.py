"""Blocks on (batch, tokens, channels)."""

from dataclasses import dataclass

import torch
from laws.shapes import ACTIVATIONS, Block, Blocks, Shape, sequence
from torch import Tensor, nn


class Table(nn.Module):
    def __init__(self, shape: Shape, form: str) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(1, shape.size, shape.channels))
        self.table = nn.Embedding(shape.size + 2, shape.channels)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "raw":
            return x + self.raw
        if self.form == "token":
            return torch.cat([self.raw[:, :1].expand(x.shape[0], -1, -1), x[:, 1:]], 1)
        return x + self.table(torch.arange(x.shape[1]))


@dataclass(frozen=True)
class Position(Block):
    """A position table added: a raw parameter, an embedding, or a class token in the first place."""

    form: str

    def build(self, shape: Shape) -> nn.Module:
        return Table(shape, self.form)


class Across(nn.Module):
    def __init__(self, shape: Shape, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(shape.size, hidden)
        self.down = nn.Linear(hidden, shape.size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x.transpose(1, 2)))).transpose(1, 2)


@dataclass(frozen=True)
class Mix(Block):
    """A map across tokens, as in MLP-Mixer."""

    hidden: int

    def build(self, shape: Shape) -> nn.Module:
        return Across(shape, self.hidden)


class Modulate(nn.Module):
    def __init__(self, inner: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.condition = nn.Linear(shape.channels, 3 * shape.channels)
        self.norm = nn.LayerNorm(shape.channels, elementwise_affine=False)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        shift, scale, gate = self.condition(torch.relu(x[:, 0])).unsqueeze(1).chunk(3, -1)
        return x + gate * self.inner(self.norm(x) * (1 + scale) + shift)


@dataclass(frozen=True)
class Modulated(Block):
    """Inner blocks between scale, shift and gate that come from the first token (adaLN)."""

    inner: Blocks

    def build(self, shape: Shape) -> nn.Module:
        return Modulate(sequence(self.inner, shape, shape.channels)[0], shape)


class Mixture(nn.Module):
    def __init__(self, shape: Shape, experts: int, hidden: int, router: str) -> None:
        super().__init__()
        self.router = nn.Linear(shape.channels, experts)
        self.up = nn.Parameter(torch.randn(experts, shape.channels, hidden) / shape.channels**0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, shape.channels) / hidden**0.5)
        self.form = router

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        weights = logits.softmax(-1) if self.form == "softmax" else logits.sigmoid()
        hidden = torch.relu(x.unsqueeze(1) @ self.up)
        return torch.einsum("beth,ehc,bte->btc", hidden, self.down, weights)


@dataclass(frozen=True)
class Experts(Block):
    """A dense mixture of experts behind a softmax or a sigmoid router."""

    experts: int
    hidden: int
    router: str = "softmax"

    def build(self, shape: Shape) -> nn.Module:
        return Mixture(shape, self.experts, self.hidden, self.router)


class Products(nn.Module):
    def __init__(self, shape: Shape, first: int, second: int, name: str) -> None:
        super().__init__()
        self.first = nn.Linear(shape.channels, first)
        self.second = nn.Linear(shape.channels, second)
        self.out = nn.Linear(first * second, shape.channels)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.first(x).unsqueeze(-1) * self.second(x).unsqueeze(-2)
        return self.out(ACTIVATIONS[self.name](pairs).flatten(2))


@dataclass(frozen=True)
class Outer(Block):
    """Every index of one map with every index of another, flattened."""

    first: int
    second: int
    name: str = "tanh"

    def build(self, shape: Shape) -> nn.Module:
        return Products(shape, self.first, self.second, self.name)


class Grouped(nn.Module):
    def __init__(self, shape: Shape, groups: int, inner: int, form: str) -> None:
        super().__init__()
        self.up = nn.Linear(shape.channels, groups * inner)
        self.norm = nn.LayerNorm(inner)
        self.mix = nn.Linear(inner, inner + 1)
        self.down = nn.Linear(groups * (inner + 1), shape.channels)
        self.groups = groups
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = self.up(x)
        if self.form == "view":
            parts = parts.view(batch, tokens, self.groups, -1)
        elif self.form == "merged":
            parts = parts.reshape(batch * tokens, self.groups, -1)
        else:
            parts = parts.view(batch, tokens, self.groups, -1).transpose(1, 2).reshape(batch * self.groups, tokens, -1)
        parts = self.mix(self.norm(parts))
        if self.form == "folded":
            parts = parts.view(batch, self.groups, tokens, -1).transpose(1, 2)
        return self.down(parts.reshape(batch, tokens, -1))


@dataclass(frozen=True)
class Group(Block):
    """One map on every group of channels; ``folded`` carries the groups in the batch as ``B * heads``."""

    groups: int
    inner: int
    form: str

    def build(self, shape: Shape) -> nn.Module:
        return Grouped(shape, self.groups, self.inner, self.form)
