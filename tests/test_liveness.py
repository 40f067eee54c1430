import torch
from torch import nn

from graphopt.liveness import activation_peak
from graphopt.tracing import capture, recapture


class Flexible(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.wide = nn.Linear(4, 40, bias=False)
        self.narrow = nn.Linear(40, 4, bias=False)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def peak(function) -> int:
    """Return the peak in floats for one row of four, the input included, captured and captured again."""
    program = capture(Flexible(function), (torch.randn(2, 4),))
    again = recapture(program.graph_module, program.args, program.kwargs, program)
    found = {activation_peak(program.graph_module), activation_peak(again.graph_module)}
    assert len(found) == 1
    return found.pop() // (4 * 2)


def test_a_chain_holds_input_operand_and_result() -> None:
    assert peak(lambda self, x: self.narrow(self.wide(x))) == 4 + 40 + 4
    assert peak(lambda self, x: self.narrow(self.wide(x).relu().relu())) == 4 + 40 + 40


def test_a_value_lives_to_its_last_reader() -> None:
    def forward(self, x):
        y = self.wide(x)
        return self.narrow((y.relu() * 2).relu() + y)

    assert peak(forward) == 4 + 40 + 40 + 40


def test_views_keep_their_memory_alive_and_take_none() -> None:
    def forward(self, x):
        y = self.wide(x)
        v = y.reshape(-1, 2, 20)[:, 0]
        z = self.narrow(self.wide(x))
        return v.sum(1) + z.sum(1)

    assert peak(forward) == 4 + 40 + 40 + 4


def test_bodies_share_memory_with_their_operands() -> None:
    def forward(self, x):
        y = self.wide(x)
        with torch.no_grad():
            z = y.relu().relu()
        return self.narrow(z)

    assert peak(forward) == 4 + 40 + 40 + 40


def test_outputs_live_to_the_end() -> None:
    assert peak(lambda self, x: (self.wide(x), self.narrow(self.wide(x)))) == 4 + 40 + 40 + 4
