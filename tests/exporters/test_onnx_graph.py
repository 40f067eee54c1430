"""What torch.onnx cannot convert, or converts to something else, is written in other operators."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import graphopt

CHANNELS = 8


class Attention(nn.Module):
    """Attention over the tokens of whatever lies before them."""

    def __init__(self, mask: Tensor | None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, 4)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return self.out(scaled_dot_product_attention(query, key, value, attn_mask=self.mask))


CASES = [((), None), ((3, 2), (5, 5)), ((3, 2), (3, 2, 5, 5)), ((3, 2, 2), (1, 3, 2, 2, 5, 5))]


@pytest.mark.parametrize(("leading", "mask"), CASES)
def test_attention_of_any_rank(leading: tuple[int, ...], mask: tuple[int, ...] | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bias = None if mask is None else torch.randn(mask)
    program = graphopt.capture(Attention(bias), (torch.randn(2, *leading, 5, CHANNELS),))
    report = graphopt.export_onnx(program, tmp_path / "attention.onnx")
    assert max(output.relative for output in report.errors) < 1e-4


def test_the_maximum_of_padding_with_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), nn.MaxPool2d(3, 2))
    with torch.no_grad():
        model[0].bias.fill_(-3.0)  # every border is the padding's zero
    program = graphopt.capture(model, (torch.randn(2, 3, 8, 8),))
    report = graphopt.export_onnx(program, tmp_path / "padded.onnx")
    assert max(output.relative for output in report.errors) < 1e-5


def test_an_exponent_that_is_taken_out_of_a_tensor(tmp_path: Path) -> None:
    class Curve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.density = nn.Linear(6, CHANNELS), nn.Parameter(torch.full([1], 0.2))

        def forward(self, x: Tensor) -> Tensor:
            return (self.linear(x).sigmoid() + 1e-8) ** self.density.item()

    program = graphopt.capture(Curve().eval(), (torch.randn(2, 6),))
    report = graphopt.export_onnx(program, tmp_path / "curve.onnx")
    assert max(output.relative for output in report.errors) < 1e-5


def test_rows_that_are_routed_to_matrices(tmp_path: Path) -> None:
    pytest.importorskip("transformers.integrations.moe")

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.matrices = nn.Linear(CHANNELS, 3), nn.Parameter(torch.randn(3, CHANNELS, 5))

        def forward(self, x: Tensor) -> Tensor:
            chosen, order = self.router(x).argmax(1).sort()
            ends = (chosen[:, None] == torch.arange(3)).sum(0).cumsum(0) - torch.tensor([0, 0, 1])
            return torch.ops.transformers.grouped_mm_fallback(x[order], self.matrices, ends)

    torch.manual_seed(0)
    model, x = Routed().eval(), torch.randn(6, CHANNELS)
    assert not model(x)[-1].any()
    assert model(x)[:-1].any(1).all()
    report = graphopt.export_onnx(graphopt.capture(model, (x,)), tmp_path / "routed.onnx")
    assert max(output.relative for output in report.errors) < 1e-5
