"""Modules that are kept whole on request, and those that cannot be."""

import pytest
import torch
from torch import nn
from traced_models import EXPERTS, ROWS, Chosen, Flexible, RoutedNet

from graphopt.errors import CaptureError
from graphopt.opaque import whole_names
from graphopt.tracing import capture
from graphopt.whole_parts import asked_for, outermost


@pytest.fixture(scope="module")
def model() -> RoutedNet:
    torch.manual_seed(0)
    return RoutedNet()


def test_modules_are_kept_whole_on_request() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 3))
    program = capture(model, (torch.randn(2, 4),), opaque=("1",))
    assert whole_names(program.nodes()) == ["1"]
    assert program.notes == ("kept whole: 1, as capture was asked to",)
    x = torch.randn(5, 4)
    assert torch.equal(program(x), model(x))


def test_a_request_without_data_takes_no_weights() -> None:
    with torch.device("meta"):
        model = RoutedNet()
    program = capture(model, (ROWS.to("meta"),), opaque=("*.experts",))
    assert program.dynamic_batch
    assert whole_names(program.nodes()) == EXPERTS


def test_a_request_holds_without_answers_of_the_example(model: RoutedNet) -> None:
    with pytest.raises(CaptureError, match="cannot be captured as a graph"):
        capture(model, (ROWS,), specialise=False)
    program = capture(model, (ROWS,), specialise=False, opaque=("routed.?",))
    assert whole_names(program.nodes()) == ["routed.0", "routed.1"]


class Slope(nn.Module):
    """Calls a transform of torch.func."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda one: one.sin().sum())(x)


class Forces(nn.Module):
    """Gradients of an energy, by autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(x).sum(), x)[0]


@pytest.mark.parametrize("kind", [Slope, Forces])
def test_a_request_takes_code_that_no_graph_holds_for_another_reason(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), kind()).eval()
    with pytest.raises(CaptureError, match=r"takes gradients of its own, .* \(.*test_whole_parts_on_request\.py"):
        capture(model, (torch.randn(2, 4),))
    program, x = capture(model, (torch.randn(2, 4),), opaque=("2",)), torch.randn(5, 4)
    assert torch.equal(program(x), model(x))


def test_what_was_asked_for_joins_what_was_found(model: RoutedNet) -> None:
    program = capture(model, (ROWS,), opaque=("up.0",))
    assert whole_names(program.nodes()) == ["up.0", *EXPERTS]
    assert program.notes[1] == "kept whole: up.0, as capture was asked to"


@pytest.mark.parametrize("pattern", ["routed.9", "", "Routed*"])
def test_patterns_that_match_nothing_are_refused(model: RoutedNet, pattern: str) -> None:
    with pytest.raises(CaptureError, match=r"matches no module inside RoutedNet, .* such as routed\.1\.experts"):
        capture(model, (ROWS,), opaque=(pattern,))


def test_a_text_is_not_several_patterns(model: RoutedNet) -> None:
    with pytest.raises(CaptureError, match=r"wanted several patterns; pass \('routed',\)"):
        capture(model, (ROWS,), opaque="routed")


def test_modules_inside_of_others_need_no_mention(model: RoutedNet) -> None:
    assert asked_for(model, ("routed.1*",)) == {"routed.1": "capture was asked to"}
    assert outermost({"a.b": "", "a": "", "ab": ""}) == {"a": "", "ab": ""}


def test_outputs_whose_sizes_the_data_decide_are_refused() -> None:
    def forward(self, x):
        return self.chosen(self.linear(x))

    with pytest.raises(CaptureError, match="chosen is kept whole and the sizes of what it returns depend on the data"):
        capture(Flexible(forward, chosen=Chosen()), (torch.randn(6, 4),), opaque=("chosen",))


class Written(nn.Module):
    """Writes to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


class Box:
    """No tensor."""


class Boxed(nn.Module):
    """Returns something that is no tensor."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Box]:
        return x * 2, Box()


@pytest.mark.parametrize(
    ("part", "says"),
    [(Written(), "writes to a tensor that it is given"), (Boxed(), "returns a Box, wanted tensors and constants")],
)
def test_parts_that_are_no_operator_are_refused(part: nn.Module, says: str) -> None:
    def forward(self, x):
        x = self.linear(x)
        result = self.part(x)
        return x + (result[0] if isinstance(result, tuple) else result)

    with pytest.raises(CaptureError, match=f"part .* {says}.*; keep a module around it whole"):
        capture(Flexible(forward, part=part), (torch.randn(2, 4),), opaque=("part",))


def test_a_model_that_raises_says_so() -> None:
    def forward(self, x):
        raise RuntimeError("out of order")

    with pytest.raises(CaptureError, match=r"Flexible\.forward raises on the example inputs: RuntimeError: out of"):
        capture(Flexible(forward), (torch.randn(2, 4),), opaque=("linear",))
