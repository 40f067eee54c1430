import torch
from torch import Tensor, nn

import graphopt
from graphopt.proof.comparison import compared


class Points(nn.Module):
    """As many scores as places lie above their mean: data and weights decide how many."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.last(torch.relu(self.first(x))).flatten()
        return scores.mean(), scores[(scores > scores.mean()).nonzero().flatten()]


def test_sizes_that_data_decide_are_not_compared() -> None:
    torch.manual_seed(0)
    program = graphopt.capture(Points(), (torch.randn(64, 6),))
    context = graphopt.PassContext(verify=False)
    result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program, context)
    assert result.program.parameters["first.weight"].shape == (8, 6)
    before, after = (len(part(*program.args)[1]) for part in (program, result.program))
    assert before != after
    checks = {check.law: check for check in graphopt.verify(program, result).checks}
    assert checks["mask equals slice"].error < 1e-4
    assert checks["shapes"].detail.endswith("but for sizes that data decide")


def test_outputs_of_different_shapes_share_nothing() -> None:
    found = compared([torch.ones(3)], [torch.ones(2)], [torch.ones(2)])
    assert (found.error, found.outputs) == (0.0, 1)
    assert found.effect > 1
    assert compared([torch.ones(3)], [torch.ones(2)], [torch.ones(3)]).error > 1
