"""Recurrent networks as modules: layers, directions, no biases, projections, learned and given states."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph

Analysed = Callable[..., DependencyGraph]
pytestmark = [
    pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
]


class Between(nn.Module):
    """A recurrent network between two linear maps."""

    def __init__(self, network: nn.RNNBase) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 6)
        self.network = network
        self.leave = nn.Linear(network.hidden_size * (2 if network.bidirectional else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, T, 5)``."""
        out: Tensor = self.leave(self.network(self.enter(x))[0])
        return out


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
        (nn.GRU, {"num_layers": 2, "bias": False}),
        (nn.GRU, {"bidirectional": True}),
        (nn.RNN, {"num_layers": 2}),
    ],
    ids=str,
)
def test_all_layers_and_directions_share_the_hidden_axis(
    analysed: Analysed, kind: type[nn.RNNBase], options: dict[str, int | bool]
) -> None:
    torch.manual_seed(0)
    graph = analysed(Between(kind(6, 4, batch_first=True, **options)), torch.randn(3, 4, 5))
    assert {group.id: group.size for group in graph.groups} == {"enter.weight:0": 6, "network.weight_ih_l0:0": 4}
    hidden = {(member.tensor, member.dim) for member in graph.groups[1].members}
    weights = {name for name in graph.names if name.startswith("network.")}
    assert {name for name, _ in hidden} == weights | {"leave.weight"}


def test_every_gate_takes_the_same_rows(analysed: Analysed) -> None:
    graph = analysed(Between(nn.LSTM(6, 4, batch_first=True)), torch.randn(3, 4, 5))
    rows = next(m for m in graph.groups[1].members if (m.tensor, m.dim) == ("network.weight_hh_l0", 0))
    assert rows.indices().tolist() == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]


def test_the_final_states_carry_the_hidden_axis(analysed: Analysed) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.leave = nn.LSTM(5, 4), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            _, (hidden, cell) = self.network(x.transpose(0, 1))
            out: Tensor = self.leave(torch.cat([hidden[0], cell[0]], -1))
            return out

    graph = analysed(Last(), torch.randn(3, 4, 5))
    leave = next(m for m in graph.groups[0].members if m.tensor == "leave.weight")
    assert leave.indices().tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_learned_state_is_sliced(analysed: Analysed) -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.randn(1, 1, 4))
            self.network, self.leave = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.leave(self.network(x, self.start.expand(1, x.shape[0], 4))[0])
            return out

    graph = analysed(Learned(), torch.randn(3, 4, 5))
    assert ("start", 2) in {(member.tensor, member.dim) for member in graph.groups[0].members}


def test_a_given_state_freezes(analysed: Analysed) -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.leave = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            out: Tensor = self.leave(self.network(x, state)[0])
            return out

    graph = analysed(Given(), torch.randn(3, 4, 5), torch.randn(1, 3, 4))
    assert graph.groups == ()
    assert "an input of the model" in graph.explain("network.weight_hh_l0", 1)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False}], ids=str)
def test_a_projection_keeps_its_sizes(analysed: Analysed, options: dict[str, int | bool]) -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(5, 6)
            self.network = nn.LSTM(6, 4, proj_size=3, batch_first=True, **options)
            self.leave = nn.Linear(3 * (2 if self.network.bidirectional else 1), 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.leave(self.network(self.enter(x))[0])
            return out

    graph = analysed(Projected(), torch.randn(3, 4, 5))
    assert [group.id for group in graph.groups] == ["enter.weight:0"]
    assert "there is a projection" in graph.explain("network.weight_hr_l0", 0)
    assert "there is a projection" in graph.explain("network.weight_hh_l0", 0)
