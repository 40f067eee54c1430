"""Blocks of either shape: how values branch, join, repeat and gate each other."""

from dataclasses import dataclass

import torch
from laws.shapes import ACTIVATIONS, Along, Block, Blocks, Shape, out_of, projection, sequence
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Project(Block):
    """A linear map of the channels."""

    channels: int
    bias: bool = True

    def out(self, shape: Shape) -> Shape:
        return shape.wide(self.channels)

    def build(self, shape: Shape) -> nn.Module:
        return projection(shape, self.channels, bias=self.bias)


class Call(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)


@dataclass(frozen=True)
class Activation(Block):
    name: str

    def build(self, shape: Shape) -> nn.Module:
        return Call(self.name)


class RmsByHand(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class LayerByHand(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias


NORMS = {
    "layer": nn.LayerNorm,
    "plain": lambda channels: nn.LayerNorm(channels, elementwise_affine=False),
    "rms": nn.RMSNorm,
    "rms_by_hand": RmsByHand,
    "layer_by_hand": LayerByHand,
}


@dataclass(frozen=True)
class Norm(Block):
    """A normalisation over the channels."""

    name: str

    def build(self, shape: Shape) -> nn.Module:
        return Along(NORMS[self.name](shape.channels), shape)


class Sum(nn.Module):
    def __init__(self, inner: nn.Module, form: str, channels: int, axis: int) -> None:
        super().__init__()
        self.inner = inner
        self.form = form
        self.scale = nn.Parameter(torch.full((channels, *(1,) * (2 if axis == 1 else 0)), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "scaled":
            return x + self.scale * self.inner(x)
        return x - self.inner(x) if self.form == "minus" else x + self.inner(x)


@dataclass(frozen=True)
class Residual(Block):
    """Input and inner blocks added; ``scaled`` has a layer scale, ``minus`` subtracts."""

    inner: Blocks
    form: str = "plain"

    def build(self, shape: Shape) -> nn.Module:
        inner, _ = sequence(self.inner, shape, shape.channels)
        return Sum(inner, self.form, shape.channels, shape.axis)


class Join(nn.Module):
    def __init__(self, left: nn.Module, right: nn.Module, form: str, axis: int) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.form = form
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        if self.form == "cat":
            return torch.cat([left, right], self.axis)
        if self.form == "stack":
            both = torch.stack([left, right], 1)
            return (both * torch.softmax(both.mean((2, 3), keepdim=True), 1)).sum(1)
        return left * right if self.form == "mul" else torch.maximum(left, right)


@dataclass(frozen=True)
class Parallel(Block):
    """Two branches: concatenated, multiplied, maximised, or stacked and mixed with softmax weights."""

    left: Blocks
    right: Blocks
    form: str = "cat"

    def out(self, shape: Shape) -> Shape:
        left, right = out_of(self.left, shape), out_of(self.right, shape)
        return left.wide(left.channels + right.channels) if self.form == "cat" else left

    def build(self, shape: Shape) -> nn.Module:
        left, there = sequence(self.left, shape)
        right, _ = sequence(self.right, shape, None if self.form == "cat" else there.channels)
        return Join(left, right, self.form, shape.axis)


class Apart(nn.Module):
    def __init__(self, left: nn.Module, right: nn.Module, how: str, axis: int, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.how = how
        self.axis = axis
        self.sizes = sizes

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.sizes
        if self.how == "chunk" and first == second:
            left, right = x.chunk(2, self.axis)
        elif self.how == "slice":
            left, right = x.narrow(self.axis, 0, first), x.narrow(self.axis, first, second)
        else:
            left, right = x.split([first, second], self.axis)
        return left, right

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.parts(x)
        return torch.cat([self.right(right), self.left(left)], self.axis)


@dataclass(frozen=True)
class Halves(Block):
    """Channels split in two, each part through its own blocks, and joined in the other order."""

    left: Blocks
    right: Blocks
    first: int
    how: str = "chunk"

    def _parts(self, shape: Shape) -> tuple[Shape, Shape]:
        first = 1 + self.first % (shape.channels - 1)
        if self.how == "chunk":
            first = (shape.channels + 1) // 2
        return shape.wide(first), shape.wide(shape.channels - first)

    def out(self, shape: Shape) -> Shape:
        left, right = self._parts(shape)
        return shape.wide(out_of(self.left, left).channels + out_of(self.right, right).channels)

    def build(self, shape: Shape) -> nn.Module:
        left, right = self._parts(shape)
        inner = sequence(self.left, left)[0], sequence(self.right, right)[0]
        return Apart(*inner, self.how, shape.axis, (left.channels, right.channels))


class Gate(nn.Module):
    def __init__(self, shape: Shape, hidden: int, name: str, form: str) -> None:
        super().__init__()
        self.fused = projection(shape, 2 * hidden)
        self.gate = projection(shape, hidden)
        self.down = projection(shape.wide(hidden), shape.channels)
        self.name = name
        self.form = form
        self.axis = shape.axis

    def forward(self, x: Tensor) -> Tensor:
        activate = ACTIVATIONS[self.name]
        if self.form == "glu":
            return self.down(functional.glu(self.fused(x), self.axis))
        if self.form == "view":
            pair = self.fused(x).unflatten(self.axis, (2, -1))
            return self.down(activate(pair.select(self.axis, 0)) * pair.select(self.axis, 1))
        if self.form == "interleaved":
            pair = self.fused(x).unflatten(self.axis, (-1, 2))
            return self.down(activate(pair.select(self.axis + 1, 0)) * pair.select(self.axis + 1, 1))
        value, gate = self.fused(x).chunk(2, self.axis)
        if self.form == "three":
            return self.down(activate(gate) * value * self.gate(x))
        return self.down(activate(gate) * value)


@dataclass(frozen=True)
class Gated(Block):
    """A gated feed-forward block."""

    hidden: int
    name: str = "silu"
    form: str = "chunk"

    def build(self, shape: Shape) -> nn.Module:
        return Gate(shape, self.hidden, self.name, self.form)


class Permuted(nn.Module):
    def __init__(self, groups: int, axis: int) -> None:
        super().__init__()
        self.groups = groups
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(self.axis, (self.groups, -1))
        return groups.transpose(self.axis, self.axis + 1).flatten(self.axis, self.axis + 1)


@dataclass(frozen=True)
class Shuffle(Block):
    """A channel shuffle, by the first of 3, 2 groups that divides the channels."""

    def build(self, shape: Shape) -> nn.Module:
        return Permuted(next(n for n in (3, 2, 1) if shape.channels % n == 0), shape.axis)


class Sliced(nn.Module):
    def __init__(self, start: int, stop: int, axis: int) -> None:
        super().__init__()
        self.bounds = (start, stop)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        start, stop = self.bounds
        return x[:, :, start:stop] if self.axis == 2 else x[:, start:stop]


@dataclass(frozen=True)
class Slice(Block):
    """Some channels in a row, at least two of them."""

    start: int
    stop: int

    def _bounds(self, shape: Shape) -> tuple[int, int]:
        start = self.start % max(1, shape.channels - 2)
        return start, start + 2 + self.stop % max(1, shape.channels - start - 1)

    def out(self, shape: Shape) -> Shape:
        start, stop = self._bounds(shape)
        return shape.wide(min(stop, shape.channels) - start)

    def build(self, shape: Shape) -> nn.Module:
        return Sliced(*self._bounds(shape), shape.axis)


class Twice(nn.Module):
    def __init__(self, hidden: int, shape: Shape, name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, shape.channels) / shape.channels**0.5)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x @ self.weight.t()) @ self.weight


@dataclass(frozen=True)
class Tied(Block):
    """A weight and its own transpose: an autoencoder with one matrix."""

    hidden: int
    name: str = "relu"

    def build(self, shape: Shape) -> nn.Module:
        return Along(Twice(self.hidden, shape, self.name), shape)


class Repeated(nn.Module):
    def __init__(self, form: str, axis: int) -> None:
        super().__init__()
        self.form = form
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "interleave":
            return x.repeat_interleave(2, self.axis)
        if self.form == "strided":
            return x[:, :, ::2] if self.axis == 2 else x[:, ::2]
        return (
            torch.cat([x, -x], self.axis)
            if self.form == "crelu"
            else x.repeat(1, *((1, 2) if self.axis == 2 else (2, 1, 1)))
        )


@dataclass(frozen=True)
class Repeat(Block):
    """Channels twice (side by side, one by one, or negated), or every second one alone."""

    form: str

    def out(self, shape: Shape) -> Shape:
        return shape.wide((shape.channels + 1) // 2 if self.form == "strided" else 2 * shape.channels)

    def build(self, shape: Shape) -> nn.Module:
        return Repeated(self.form, shape.axis)


class Excite(nn.Module):
    def __init__(self, shape: Shape, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(shape.channels, hidden)
        self.up = nn.Linear(hidden, shape.channels)
        self.image = shape.kind == "image"

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3)) if self.image else x.mean(1)))))
        return x * (gate[:, :, None, None] if self.image else gate[:, None])


@dataclass(frozen=True)
class Squeeze(Block):
    """Squeeze and excitation."""

    hidden: int

    def build(self, shape: Shape) -> nn.Module:
        return Excite(shape, self.hidden)
