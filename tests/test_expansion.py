import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.proof.samples import prove_groups
from graphopt.tracing import capture

CALLS = {
    "multiply": lambda x: torch.multiply(x, 2 * x),
    "true_divide": lambda x: torch.true_divide(x, 2),
    "hstack": lambda x: torch.hstack((x, x.relu())),
    "broadcast_tensors": lambda x: sum(torch.broadcast_tensors(x, x[:1])),
    "linalg_norm": lambda x: x / (1 + torch.linalg.norm(x, dim=-1, keepdim=True)),
    "hsplit": lambda x: torch.sub(*torch.hsplit(x, 2)),
    "xlog1py": lambda x: torch.special.xlog1py(x, x.abs()),
    "soft_margin": lambda x: nn.functional.soft_margin_loss(x, x.detach().sign(), reduction="none"),
    "var_mean": lambda x: torch.var_mean(x, -1, keepdim=True)[1] + x,
}


class Around(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.enter = nn.Linear(5, 6)
        self.leave = nn.Linear(CALLS[name](torch.randn(2, 6)).shape[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 5)``."""
        out: Tensor = self.leave(CALLS[self.name](self.enter(x)))
        return out


@pytest.mark.parametrize("name", CALLS)
def test_operators_without_a_rule_are_written_in_ones_that_have_one(name: str) -> None:
    torch.manual_seed(0)
    model = Around(name).eval()
    x = torch.randn(4, 5)
    program = capture(model, (x,))
    for batch in (x, torch.randn(7, 5)):
        torch.testing.assert_close(program(batch), model(batch))
    assert not any(str(node.target).endswith(f"{name}.default") for node in program.nodes())
    graph = DependencyGraph(program)
    assert graph.analysis.failures == {}
    assert graph.groups
    assert all(comparison.error < 1e-4 for proof in prove_groups(graph) for comparison in proof.comparisons)


def test_an_operator_that_nothing_explains_stays_whole() -> None:
    class Model(Around):
        def forward(self, x: Tensor) -> Tensor:
            """``x: (batch, 5)``."""
            out: Tensor = self.leave(torch.renorm(self.enter(x), 2, 0, 1.0).nextafter(torch.ones(6)))
            return out

    graph = DependencyGraph(capture(Model("xlog1py"), (torch.randn(4, 5),)))
    assert {reason.operator for reason in graph.analysis.failures.values()} == {"aten.nextafter.default"}
    assert "test_expansion.py" in next(iter(graph.analysis.failures.values())).where


def test_the_line_of_the_model_is_kept() -> None:
    program = capture(Around("hstack"), (torch.randn(4, 5),))
    concatenation = next(node for node in program.nodes() if "cat" in str(node.target))
    assert "test_expansion.py" in concatenation.meta["stack_trace"]
