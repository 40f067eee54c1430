"""A second pass starts from the weights that the program has now, whatever happened to them since the first."""

from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import PreconditionError

ARGS = (torch.randn(6, 4),)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def test_trained_weights_stay(tmp_path: Path) -> None:
    first = graphopt.optimize(model(), ARGS, passes="prune-channels{ratio=0.5}")
    with torch.no_grad():
        for parameter in first.module().parameters():
            parameter.copy_(torch.arange(1.0, parameter.numel() + 1).view_as(parameter))
    first.save(tmp_path / "out")
    loaded = graphopt.load(tmp_path / "out", model=model(seed=1))
    for start in (first, loaded):
        second = graphopt.Pipeline("prune-channels{ratio=0.75}").run(start.program)
        assert second.program.parameters["2.weight"].tolist() == [
            [first.program.parameters["2.weight"][row, column].item() for column in range(4, 8)] for row in range(4, 8)
        ]
        assert second.plan.axes["0.weight:0"].kept == first.plan.axes["0.weight:0"].kept[4:]


def test_results_share_nothing_that_training_changes() -> None:
    program = graphopt.capture(model(), ARGS)
    first = program.module()
    result = graphopt.Pipeline("prune-channels{ratio=0.5,ignore=[0.*]}").run(program)
    second = result.module()
    mine = {parameter.data_ptr() for parameter in first.parameters()}
    assert mine.isdisjoint(parameter.data_ptr() for parameter in second.parameters())


def test_passes_agree_on_regroup() -> None:
    with pytest.raises(PreconditionError, match="the same regroup"):
        graphopt.optimize(model(), ARGS, passes="prune-channels{ratio=0.5},prune-channels{ratio=0.6,regroup=true}")


def test_a_pass_without_fuel_takes_no_part() -> None:
    context = graphopt.PassContext(fuel=1)
    spec = "prune-channels{ratio=0.5},prune-channels{ratio=0.75}"
    result = graphopt.optimize(model(), ARGS, passes=spec, context=context)
    assert result.plan.passes == ("prune-channels{ratio=0.5}",)
