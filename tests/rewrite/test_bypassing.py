"""Bypassing on a graph: who reads what, which tensors leave, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import PlanError
from graphopt.program import Bypass, Program
from graphopt.rewrite.ancestry import base_of, origin_of, plan_of
from graphopt.rewrite.bypassing import bypass, resolved


class Net(nn.Module):
    """Two residual linear maps that share one weight, and a buffer that only the second reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x).relu()
        return x + self.second(x + self.shift)


ONE = Bypass("branch.0", "branch", {"add": "x"})
TWO = Bypass("branch.1", "branch", {"add_2": "add"})
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def program(net: Net) -> Program:
    return graphopt.capture(net, (X,))


def test_readers_read_what_enters(net: Net, program: Program) -> None:
    assert torch.equal(bypass(program, [ONE])(X), X + net.second(X + net.shift))
    assert torch.equal(bypass(program, [TWO])(X), X + net.first(X).relu())
    assert torch.equal(bypass(program, [TWO, ONE])(X), X)


def test_tensors_leave_with_the_last_that_reads_them(program: Program) -> None:
    one, two = bypass(program, [ONE, TWO]).lineage.bypassed
    assert one.tensors == ("first.bias",)
    assert set(two.tensors) == {"first.weight", "second.weight", "second.bias", "shift"}
    assert bypass(program, [ONE, TWO]).parameters == {}
    assert sorted(bypass(program, [ONE]).parameters) == ["first.weight", "second.bias", "second.weight", "shift"]


def test_the_given_program_stays(program: Program) -> None:
    before, names = str(program), set(program.parameters)
    bypass(program, [ONE, TWO])
    assert (str(program), set(program.parameters)) == (before, names)


def test_chains_end_at_what_is_left(program: Program) -> None:
    found = resolved(program, [TWO.replaced, ONE.replaced])
    assert {after.name: before.name for after, before in found.items()} == {"add": "x", "add_2": "x"}


def test_of_two_that_replace_one_value_the_larger_wins(program: Program) -> None:
    whole = Bypass("block.0", "block", {"add_2": "x"})
    for order in ([whole, TWO], [TWO, whole]):
        assert torch.equal(bypass(program, order)(X), X)


def test_the_history_is_that_of_the_captured_program(program: Program) -> None:
    rewritten = bypass(program, [ONE])
    assert origin_of(rewritten) is program
    assert plan_of(rewritten, "text").source.tensors.keys() == program.parameters.keys()
    assert [one.id for one in plan_of(rewritten, "text").bypassed] == ["branch.0"]
    assert base_of(rewritten).parameters.keys() == rewritten.parameters.keys()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"add_9": "x"}, "left out at add_9, which is no tensor of this program"),
        ({"x": "add"}, "add, torch.float32 .*, cannot stand for x"),
        ({"add": "shift"}, r"shift, torch.float32 \[4\], cannot stand for add, torch.float32 \[3, 4\]"),
    ],
)
def test_what_cannot_stand_for_a_value_is_refused(program: Program, replaced: dict[str, str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        bypass(program, [Bypass("branch.0", "branch", replaced)])


def test_a_rewritten_program_is_not_bypassed_again(program: Program) -> None:
    with pytest.raises(PlanError, match="was rewritten before"):
        bypass(bypass(program, [ONE]), [TWO])
