"""Parameters that scale a value."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.restoring.scaling import Scaling
from graphopt.running import values_apart


class Fused(nn.Module):
    """One projection for three values, of which the first is used in two halves, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 24)
        self.register_buffer("angle", torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:-1], 3, 8).unbind(-2)
        left, right = q.chunk(2, dim=-1)
        turned = torch.cat([left * self.angle - right, right * self.angle + left], dim=-1)
        return (turned * k).softmax(-1) * v


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x)).unsqueeze(1).transpose(-1, -2).softmax(-1)


class ByHand(nn.Module):
    """A bias and a product with a transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.T + self.bias)[..., :3].softmax(-1)


@pytest.mark.parametrize(
    ("make", "marked"),
    [
        (Fused, {"qkv.weight": slice(0, 8), "qkv.bias": slice(0, 8)}),
        (Normed, {"norm.weight": slice(0, 8), "norm.bias": slice(0, 8)}),
        (ByHand, {"weight": slice(0, 3), "bias": slice(0, 3)}),
    ],
)
def test_scaled_parameters_scale_the_value(make: Callable[[], nn.Module], marked: dict[str, slice]) -> None:
    program = graphopt.capture(make().eval(), (torch.randn(3, 5, 6),))
    values = values_apart(program)
    (node,) = [node for node in values if node.name == "softmax"]
    source = node.all_input_nodes[0]
    if source.name.startswith("mul"):
        source = source.all_input_nodes[0]
    masks = Scaling(program, values).parameters_of(source)
    assert masks is not None
    assert {
        name: tuple(mask.flatten(1).any(1).nonzero().flatten() if mask.ndim > 1 else mask.nonzero().flatten())
        for name, mask in masks.items()
    } == {name: tuple(range(rows.stop)) for name, rows in marked.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            program.parameters[name].mul_(1 + mask)
    torch.testing.assert_close(values_apart(program)[source], values[source] * 2)


def test_nothing_scales_what_no_parameter_is_linear_in() -> None:
    program = graphopt.capture(Normed().eval(), (torch.randn(3, 5, 6),))
    values = values_apart(program)
    (node,) = [node for node in values if node.name == "softmax"]
    assert Scaling(program, values).parameters_of(node) is None
