"""Exported files are compared at two batches: how the second one is chosen."""

from pathlib import Path

import torch
from torch import nn

from graphopt.exporters.onnx import export_onnx
from graphopt.tracing import capture


def test_rows_that_go_together_are_doubled(tmp_path: Path) -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.reshape(-1, 2, 4).sum(1))

    report = export_onnx(capture(Pairs(), (torch.randn(4, 4),)), tmp_path / "a.onnx")
    assert report.batch_sizes == (4, 8)
    assert report.notes[0].startswith("a batch of 1 does not work (shape '[-1, 2, 4]' is invalid")


def test_a_table_of_as_many_rows_as_the_batch_is_noted(tmp_path: Path) -> None:
    class Table(nn.Module):
        def forward(self, x: torch.Tensor, places: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
            return x + nn.functional.embedding(places, table)

    example = (torch.randn(2, 3, 4), torch.tensor([0, 1, 1]), torch.randn(2, 4))
    report = export_onnx(capture(Table(), example), tmp_path / "a.onnx")
    assert report.batch_sizes == (2, 3)
    assert report.notes[0].startswith("a batch of 1 does not work (index out of range")


def test_a_model_that_writes_to_its_input_is_compared_on_the_same_numbers(tmp_path: Path) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.sub_(5).div_(0.1))

    example = torch.randn(2, 4)
    program = capture(Centred(), (example.clone(),))
    report = export_onnx(program, tmp_path / "a.onnx")
    assert torch.equal(program.args[0], example)
    assert report.batch_sizes == (2, 3, 1)
