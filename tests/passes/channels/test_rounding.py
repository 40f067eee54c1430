"""round_to=auto: what each weight likes on its device, as far as axes are wide enough."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.alignment import Alignment
from graphopt.errors import SpecError
from graphopt.pass_manager import Result
from graphopt.passes.channels import rounding


class Narrowing(nn.Module):
    """Hidden widths of 100, 30 and 6."""

    def __init__(self) -> None:
        super().__init__()
        widths = (5, 100, 30, 6, 2)
        pairs = pairwise(widths)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in pairs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine likes 16 elements of float32 and 32 of float16 here."""

    def alignment(dtype: torch.dtype, device_type: str) -> Alignment:
        multiple = 64 // dtype.itemsize
        return Alignment(multiple, f"{device_type} takes 64 bytes")

    monkeypatch.setattr(rounding, "alignment", alignment)


def widths(result: Result) -> list[int]:
    return [int(result.program.parameters[f"layers.{place}.0.weight"].shape[0]) for place in range(3)]


def prune(options: str, dtype: torch.dtype = torch.float32) -> Result:
    torch.manual_seed(0)
    program = graphopt.capture(Narrowing().to(dtype), (torch.randn(2, 5, dtype=dtype),))
    return graphopt.Pipeline(f"prune-channels{{{options}}}").run(program, graphopt.PassContext(verify=False))


def test_wide_axes_take_the_whole_multiple_and_narrow_ones_less() -> None:
    """30 holds seven steps of 4 and three of 8; 6 holds six of 1 and three of 2."""
    assert widths(prune("ratio=0.3,round_to=auto")) == [64, 20, 4]
    assert widths(prune("ratio=0.3")) == [70, 21, 4]


def test_the_type_of_the_weights_decides() -> None:
    assert widths(prune("ratio=0.3,round_to=auto", torch.float64)) == [64, 20, 4]
    assert widths(prune("ratio=0.1,round_to=auto")) == [80, 24, 5]
    assert widths(prune("ratio=0.1,round_to=auto", torch.float64)) == [88, 24, 5]


def test_the_report_says_what_and_why() -> None:
    (note,) = (line for line in prune("ratio=0.3,round_to=auto").report.passes[0].notes if "round_to" in line)
    assert note == (
        "round_to=auto: float32 on cpu likes multiples of 16, as cpu takes 64 bytes; 2 dimensions are rounded to 16, "
        "2 dimensions are rounded to 4, 2 dimensions are rounded to 1 (an axis holds 4 steps at least)"
    )


def test_nothing_is_refused_for_it() -> None:
    assert prune("ratio=0.3,round_to=auto").report.passes[0].refused == ()
    assert any("round_to=16" in line for line in prune("ratio=0.3,round_to=16").report.passes[0].refused)


def test_it_composes_with_budgets_and_likeness() -> None:
    result = prune("params=0.5,scope=global,round_to=auto,uniform_per_layer,keep_min=2")
    report = result.report.passes[0]
    assert report.after["parameters"] <= 0.5 * report.before["parameters"]
    assert [width % step for width, step in zip(widths(result), (16, 4, 1), strict=True)] == [0, 0, 0]


@pytest.mark.parametrize(
    "text", ["round_to=auto", "round_to=8", "uniform_per_layer", "uniform_per_layer=own_head_size"]
)
def test_options_round_trip(text: str) -> None:
    spec = f"prune-channels{{ratio=0.5,{text}}}"
    assert str(graphopt.Pipeline(spec)) == spec


@pytest.mark.parametrize("text", ["round_to=automatic", "round_to=0", "round_to=1.5", "uniform_per_layer=heads"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=text.partition("=")[0]):
        graphopt.Pipeline(f"prune-channels{{ratio=0.5,{text}}}")
