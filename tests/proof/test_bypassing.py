"""The laws of what is left out can fail: on a wrong rewrite, on changed weights, on a removal without effect."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import VerificationError
from graphopt.plan import Plan
from graphopt.program import Bypass, Program
from graphopt.rewrite.ancestry import plan_of
from graphopt.rewrite.bypassing import bypass


class Net(nn.Module):
    def __init__(self, gate: float = 1.0) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.gate = nn.Parameter(torch.full((4,), gate))
        self.register_buffer("off", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gate * self.branches[0](x)
        x = x + self.branches[1](x).relu()
        return x + self.off * self.branches[2](x)


FIRST = Bypass("branch.0", "branch", {"add": "x"})
SECOND = Bypass("branch.1", "branch", {"add_1": "add"})
THIRD = Bypass("branch.2", "branch", {"add_2": "add_1"})


@dataclass(frozen=True)
class Made:
    program: Program
    plan: Plan


def captured(gate: float = 1.0) -> Program:
    torch.manual_seed(0)
    return graphopt.capture(Net(gate), (torch.randn(3, 4),))


def test_a_right_rewrite_is_proved_exactly() -> None:
    program = captured()
    rewritten = bypass(program, [FIRST, SECOND])
    report = graphopt.verify(program, Made(rewritten, plan_of(rewritten, "")), per_axis=True)
    assert [check.error for check in report.checks] == [0.0] * 6
    assert str(report).splitlines()[0] == "weights: error 0.00e+00 (3 tensors are the original's, 5 left)"


def test_a_gate_of_zero_hides_nothing() -> None:
    program = captured(gate=0.0)
    rewritten = bypass(program, [FIRST])
    assert torch.equal(rewritten(*program.args), program(*program.args))
    graphopt.verify(program, Made(rewritten, plan_of(rewritten, "")))


def test_a_program_that_lacks_more_than_the_plan_says() -> None:
    program = captured()
    plan = plan_of(bypass(program, [FIRST]), "")
    with pytest.raises(VerificationError, match=r"weights: branches\.1\.bias is missing, though the plan keeps it"):
        graphopt.verify(program, Made(bypass(program, [FIRST, SECOND]), plan))


def test_another_branch_of_the_same_tensors() -> None:
    program = captured()
    wrong = bypass(program, [FIRST])
    plan = replace(plan_of(wrong, ""), bypassed=(replace(wrong.lineage.bypassed[0], replaced={"add_1": "add"}),))
    with pytest.raises(VerificationError, match=r"mask equals bypass, .*: the rewritten program differs"):
        graphopt.verify(program, Made(wrong, plan))


def test_weights_that_changed() -> None:
    program = captured()
    rewritten = bypass(program, [SECOND])
    rewritten.module()
    with torch.no_grad():
        rewritten.parameters["branches.0.weight"].add_(1)
    with pytest.raises(VerificationError, match=r"weights: branches\.0\.weight is not the original's"):
        graphopt.verify(program, Made(rewritten, plan_of(rewritten, "")))


def test_a_removal_without_effect_is_not_proved() -> None:
    program = captured()
    rewritten = bypass(program, [THIRD])
    with pytest.raises(VerificationError, match="leaving it out has no effect on the outputs"):
        graphopt.verify(program, Made(rewritten, plan_of(rewritten, "")))
