"""remove-dead: outputs stay, sizes fall, the plan is replayed, and what bad calls say."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import graphopt
from graphopt.errors import PreconditionError, VerificationError
from graphopt.proof.unchanged import check_unchanged


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return out


class Sparse(nn.Module):
    """Three blocks: in the first half of the hidden units are zero, the second gives zero, the third is whole."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks, self.head = nn.Linear(4, 8), nn.ModuleList(Block() for _ in range(3)), nn.Linear(8, 2)
        with torch.no_grad():
            self.blocks[0].up.weight[::2] = 0
            self.blocks[0].up.bias[::2] = 0
            self.blocks[1].down.weight.zero_()
            self.blocks[1].down.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


X = torch.linspace(-2, 2, 12).reshape(3, 4)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Sparse().eval()


@pytest.fixture(scope="module")
def result(model: nn.Module) -> graphopt.Result:
    return graphopt.optimize(model, (X,), passes="remove-dead")


def sizes(result: graphopt.Result) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in result.program.parameters.items()}


def test_outputs_stay_and_what_is_dead_is_gone(model: nn.Module, result: graphopt.Result) -> None:
    with torch.no_grad():
        torch.testing.assert_close(result.program(X), model(X))
    found = sizes(result)
    assert found["blocks.0.up.weight"] == (8, 8)
    assert found["blocks.0.down.weight"] == (8, 8)
    assert found["blocks.2.up.weight"] == (16, 8)
    assert not [name for name in found if name.startswith("blocks.1.")]


def test_the_report_says_what_went(result: graphopt.Result) -> None:
    report = result.report.passes[0]
    assert report.notes == (
        "add_1 adds nothing but zeros to add, and is left out with what only it needs",
        "8 of 16 indices of the hidden axis blocks.0.up.weight:0 are dead",
    )
    assert report.after["parameters"] == report.before["parameters"] - (16 + 16 * 17 + 8) - (8 * 17)


def test_the_laws_hold(model: nn.Module, result: graphopt.Result) -> None:
    laws = {check.law for check in graphopt.verify(graphopt.capture(model, (X,)), result).checks}
    assert {"mask equals slice", "mask equals bypass", "replay", "shapes"} <= laws


def test_nothing_dead_changes_nothing() -> None:
    torch.manual_seed(0)
    program = graphopt.capture(nn.Linear(4, 2), (X,))
    result = graphopt.Pipeline("remove-dead").run(program)
    assert result.program is program
    assert result.report.passes[0].notes == ()


def test_what_is_constant_is_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)).eval()
    nn.init.uniform_(model[1].running_mean)
    prune.ln_structured(model[0], "weight", amount=3, n=2, dim=0)
    result = graphopt.optimize(model, (torch.randn(2, 3, 4, 4),), passes="remove-dead")
    (note,) = result.report.passes[0].notes
    assert note.startswith("3 of 8 indices of the channel axis 0.bias:0 stay: they compute nothing, but a bias")


def test_masks_that_were_not_made_permanent_are_proved() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    prune.ln_structured(model[2], "weight", amount=3, n=2, dim=1)
    result = graphopt.optimize(model, (torch.randn(2, 3, 4, 4),), passes="remove-dead")
    assert result.program.parameters["2.weight_mask"].shape == (2, 5, 1, 1)


@pytest.mark.parametrize(
    ("options", "kept", "whole_block"),
    [("channels=false", 16, False), ("branches=false", 8, True)],
)
def test_either_kind_can_be_left_alone(model: nn.Module, options: str, kept: int, *, whole_block: bool) -> None:
    found = sizes(graphopt.optimize(model, (X,), passes=f"remove-dead{{{options}}}"))
    assert found["blocks.0.up.weight"][0] == kept
    assert ("blocks.1.norm.weight" in found) is whole_block


def test_fuel_counts_sums_and_axes(model: nn.Module) -> None:
    found = [
        sizes(graphopt.optimize(model, (X,), passes="remove-dead", context=graphopt.PassContext(fuel=fuel)))
        for fuel in (0, 1, 2)
    ]
    counts = [sum(map(math.prod, one.values())) for one in found]
    assert counts[0] > counts[1] > counts[2]
    assert "blocks.1.norm.weight" in found[0]
    assert "blocks.1.norm.weight" not in found[1]
    assert found[1]["blocks.0.up.weight"] == (16, 8)
    assert found[2]["blocks.0.up.weight"] == (8, 8)


def test_it_is_saved_and_loaded(result: graphopt.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "out")
    again = graphopt.load(tmp_path / "out", model=Sparse().eval())
    with torch.no_grad():
        assert torch.equal(again.module()(X), result.module()(X))


def test_other_passes_follow(model: nn.Module) -> None:
    both = graphopt.optimize(model, (X,), passes="remove-dead,prune-channels{ratio=0.5,importance=magnitude}")
    assert sizes(both)["blocks.0.up.weight"][0] <= 8
    behind = graphopt.optimize(model, (X,), passes="prune-layers{layers=[2]},remove-dead")
    assert not [name for name in sizes(behind) if name.startswith(("blocks.1.", "blocks.2."))]


def test_it_comes_before_pruning(model: nn.Module) -> None:
    with pytest.raises(PreconditionError, match="name remove-dead once, before prune-channels"):
        graphopt.optimize(model, (X,), passes="prune-channels{ratio=0.5,importance=magnitude},remove-dead")


def test_it_needs_weights() -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 2)
    program = graphopt.capture(model, (X.to("meta"),))
    with pytest.raises(PreconditionError, match="meta device, so nothing tells which are zero"):
        graphopt.Pipeline("remove-dead").run(program)


def test_a_rewrite_that_moves_an_output_is_refused(model: nn.Module) -> None:
    program = graphopt.capture(model, (X,))
    pruned = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program)
    with pytest.raises(VerificationError, match=r"unchanged: an output moved by"):
        check_unchanged(program, pruned.program)
