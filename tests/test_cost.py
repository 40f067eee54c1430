import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graphopt.cost import cost, vocabulary_tables
from graphopt.tracing import capture


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.up(torch.relu(self.depthwise(self.conv(x)))))
        y = y.flatten(2)
        y = y.transpose(1, 2) @ (y @ y.transpose(1, 2))
        return self.fc(y.mean(1))


class Tied(nn.Module):
    def __init__(self, *, tie: bool = True, reuse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 100, bias=False)
        self.reuse = reuse
        if tie:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y = self.head(self.body(self.embed(tokens)))
        return y + self.embed.weight.sum() if self.reuse else y


def test_macs_agree_with_torchs_own_count() -> None:
    model = Network().eval()
    program = capture(model, (torch.randn(2, 3, 16, 16),))
    with FlopCounterMode(display=False) as counter:
        model(*program.args)
    assert 2 * cost(program).macs == counter.get_total_flops()


def test_parameters_and_bytes() -> None:
    model = Network().to(torch.bfloat16)
    found = cost(capture(model, (torch.randn(2, 3, 16, 16, dtype=torch.bfloat16),)))
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert (found.parameters, found.parameter_bytes) == (numbers, 2 * numbers)
    assert found.parameters_without_vocabulary == numbers


def test_meta_programs_cost_the_same() -> None:
    real = cost(capture(Network(), (torch.randn(2, 3, 16, 16),)))
    with torch.device("meta"):
        bare = Network()
    meta = cost(capture(bare, (torch.randn(2, 3, 16, 16),)))
    assert [(node.macs, node.bytes_read) for node in meta.nodes] == [
        (node.macs, node.bytes_read) for node in real.nodes
    ]
    assert (meta.parameters, meta.activation_peak_bytes) == (real.parameters, real.activation_peak_bytes)


def test_traffic_counts_operands_and_results_but_no_views() -> None:
    program = capture(nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.ReLU()), (torch.randn(2, 4),))
    nodes = {str(node.node.target): (node.bytes_read, node.bytes_written) for node in cost(program).nodes}
    assert nodes == {
        "aten.linear.default": (4 * (2 * 4 + 6 * 4 + 6), 4 * 2 * 6),
        "aten.unflatten.int": (0, 0),
        "aten.relu.default": (4 * 12, 4 * 12),
    }
    assert cost(program).bytes_moved == 4 * (38 + 12 + 24)


def test_vocabulary_is_left_out_with_heads_tied_to_it() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    tied = capture(Tied(), (tokens,))
    assert (cost(tied).parameters, cost(tied).parameters_without_vocabulary) == (420, 20)
    assert vocabulary_tables(tied) == {"embed.weight", "head.weight"}
    untied = capture(Tied(tie=False), (tokens,))
    assert (cost(untied).parameters, cost(untied).parameters_without_vocabulary) == (820, 420)
    reused = capture(Tied(reuse=True), (tokens,))
    assert cost(reused).parameters_without_vocabulary == 420


def test_bodies_of_higher_order_operators_are_counted() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            with torch.no_grad():
                y = self.a(x)
            return self.b(y)

    assert cost(capture(Half(), (torch.randn(3, 4),))).macs == 3 * (4 * 8 + 8 * 2)
