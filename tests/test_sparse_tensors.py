"""Sparse tensors of a model: left out where nothing reads them, refused where something does."""

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import CaptureError


class Marked(nn.Module):
    """A model with a sparse table, as speech models keep of the heads that follow the sound."""

    def __init__(self, *, reads: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("table", torch.eye(6).to_sparse(), persistent=False)
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        out: Tensor = self.leave(y @ self.get_buffer("table").to_dense() if self.reads else y.relu())
        return out


def test_what_nothing_reads_is_left_out() -> None:
    model = Marked(reads=False).eval()
    program = graphopt.capture(model, (torch.randn(2, 4),))
    x = torch.randn(5, 4)
    assert torch.equal(program(x), model(x))
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)
    assert result.program.parameters["enter.weight"].shape == (3, 4)


def test_what_an_operator_reads_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"table is a sparse tensor .* to_dense"):
        graphopt.capture(Marked(reads=True).eval(), (torch.randn(2, 4),))
