import copy

import pytest
import torch
from torch import Tensor, nn

from graphopt.errors import GraphoptError
from graphopt.program import Program
from graphopt.tracing import capture


class Mean(nn.Module):
    """Reads a size and a number while it is captured."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: dict[str, Tensor], scale: float = 1.0, *, mask: Tensor | None = None) -> Tensor:
        y = self.linear(x["x"])
        y = y if mask is None else y * mask
        return y.sum(1) / x["x"].shape[1] * scale


@pytest.fixture(scope="module")
def program() -> Program:
    return capture(Mean(), ({"x": torch.randn(2, 10, 8)},), {"scale": 3.0})


def test_the_captured_sizes_and_any_batch_run(program: Program) -> None:
    module = copy.deepcopy(program.module())
    for batch in (1, 2, 5):
        assert module({"x": torch.randn(batch, 10, 8)}, scale=3.0).shape == (batch, 3)
    assert module(x={"x": torch.randn(2, 10, 8)}, scale=3.0).shape == (2, 3)


def test_another_size_is_refused(program: Program) -> None:
    with pytest.raises(GraphoptError, match=r"input x_x has shape \[2, 20, 8\].*captured for \['batch', 10, 8\]"):
        program.module()({"x": torch.randn(2, 20, 8)}, scale=3.0)
    assert program.module(check_inputs=False)({"x": torch.randn(2, 20, 8)}, scale=3.0).shape == (2, 3)


def test_another_number_is_refused(program: Program) -> None:
    with pytest.raises(GraphoptError, match=r"input scale is 7\.0, and the graph was captured with 3\.0"):
        program.module()({"x": torch.randn(2, 10, 8)}, scale=7.0)


def test_the_module_compiles_and_is_captured_again(program: Program) -> None:
    module, args, kwargs = program.module(), ({"x": torch.randn(2, 10, 8)},), {"scale": 3.0}
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*args, **kwargs), module(*args, **kwargs))
    again = capture(module, args, kwargs)
    torch.testing.assert_close(again(*args, **kwargs), module(*args, **kwargs))
