"""Dead parts: what zeros of the weights make superfluous, found on the graph; outputs stay what they were."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import graphopt
from graphopt.dependency.dead import DeadParts
from graphopt.dependency.registry import rule_table
from graphopt.proof.check import inputs_of, outputs_of
from graphopt.proof.samples import sample_program
from graphopt.proof.unchanged import check_unchanged
from graphopt.rewrite.slicing import slice_axes

pytestmark = pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
PROVED = sorted(name for name, rule in rule_table().items() if rule.sample is not None)
DRAWS, SEEDS = 2, 50


def kept(model: nn.Module, *args: Tensor) -> dict[str, tuple[int, ...]]:
    """What stays of each axis that loses some, once the program without the rest is seen to give the same."""
    program = graphopt.capture(model.eval(), args)
    graph = graphopt.DependencyGraph(program)
    found = DeadParts(graph).kept()
    check_unchanged(program, slice_axes(graph, found))
    return found


def zero(tensor: Tensor, indices: object, dim: int = 0) -> None:
    with torch.no_grad():
        tensor.index_fill_(dim, torch.as_tensor(indices), 0)


def clear_rows(program: graphopt.Program, seed: int) -> None:
    """Zero random indices of random dimensions of random tensors, with no regard to what is coupled."""
    rng = random.Random(seed)
    for tensor in program.parameters.values():
        dims = range(tensor.dim()) if tensor.is_floating_point() and rng.random() > 0.3 else ()
        for dim in dims:
            chosen = [index for index in range(tensor.shape[dim]) if rng.random() < 0.3]
            zero(tensor, torch.tensor(chosen, dtype=torch.int64), dim)


def restore(program: graphopt.Program, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in program.parameters.items():
            tensor.copy_(tensors[name])


@pytest.mark.parametrize("target", PROVED)
def test_nothing_that_matters_goes_from_the_sample(target: str) -> None:
    program = sample_program(rule_table()[target])
    whole = {name: tensor.detach().clone() for name, tensor in program.parameters.items()}
    compared = 0
    for seed in range(SEEDS):
        restore(program, whole)
        clear_rows(program, seed)
        if not all(out.isfinite().all() for out in outputs_of(program, inputs_of(program))):
            continue  # zeros in a divisor; what is said holds for finite values
        graph = graphopt.DependencyGraph(program)
        check_unchanged(program, slice_axes(graph, DeadParts(graph).kept()))
        compared += 1
        if compared == DRAWS:
            return
    pytest.fail(f"{compared} of {SEEDS} draws of {target} gave finite outputs, wanted {DRAWS}")


class Residual(nn.Module):
    """Convolutions with normalisations around a residual."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.Conv2d(8, 12, 3, padding=1, groups=groups)
        self.norm = norm(12)
        self.last = nn.Conv2d(12, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(x + self.last(torch.relu(self.norm(self.first(x)))))
        return out


IMAGE = torch.linspace(-1, 1, 2 * 3 * 25).reshape(2, 3, 5, 5)


def test_a_channel_that_its_norm_makes_zero_goes() -> None:
    model = Residual()
    zero(model.norm.weight, [0, 5])
    zero(model.norm.bias, [0, 5])
    assert kept(model, IMAGE) == {"first.weight:0": (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)}


def test_a_channel_that_its_norm_shifts_stays() -> None:
    model = Residual()
    zero(model.norm.weight, [0, 5])
    nn.init.ones_(model.norm.bias)
    assert kept(model, IMAGE) == {}


def test_a_channel_that_nothing_reads_goes() -> None:
    model = Residual()
    zero(model.last.weight, [2, 3], dim=1)
    assert kept(model, IMAGE) == {"first.weight:0": (0, 1, 4, 5, 6, 7, 8, 9, 10, 11)}


def test_a_residual_channel_goes_where_all_that_write_it_write_zero() -> None:
    model = Residual()
    zero(model.stem.weight, [1, 4])
    zero(model.stem.bias, [1, 4])
    zero(model.last.weight, [1, 6])
    zero(model.last.bias, [1, 6])
    assert kept(model, IMAGE) == {"stem.weight:0": (0, 2, 3, 4, 5, 6, 7)}


def test_a_residual_channel_goes_where_nobody_reads_it() -> None:
    model = Residual()
    zero(model.first.weight, [1, 4], dim=1)
    zero(model.head.weight, [1, 6], dim=1)
    assert kept(model, IMAGE) == {"stem.weight:0": (0, 2, 3, 4, 5, 6, 7)}


def test_zeros_cascade_through_a_weight_that_reads_only_them() -> None:
    model = Residual()
    zero(model.norm.weight, [0, 1, 2])
    zero(model.norm.bias, [0, 1, 2])
    zero(model.last.weight, range(3, 12), dim=1)
    zero(model.last.bias, range(8))
    program = graphopt.capture(model.eval(), (IMAGE,))
    dead = DeadParts(graphopt.DependencyGraph(program))
    assert [*dead.idle_sums().values()] == ["conv2d"]


def test_groups_of_a_normalisation_go_whole_and_channels_within_stay() -> None:
    model = Residual(lambda channels: nn.GroupNorm(4, channels))
    zero(model.norm.weight, [0, 1, 2, 5])
    zero(model.norm.bias, [0, 1, 2, 5])
    assert kept(model, IMAGE) == {"first.weight:0": (1, 2, 3)}


def test_groups_of_a_convolution_lose_the_same_channel_or_go_whole() -> None:
    model = Residual(groups=2)
    zero(model.norm.weight, [1, 7, 8])
    zero(model.norm.bias, [1, 7, 8])
    assert kept(model, IMAGE) == {"first.weight:0": (0, 2, 3, 4, 5)}


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grow, self.deep, self.back = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.back(F.silu(self.deep(torch.relu(self.grow(x)))))
        return out


def test_a_depthwise_convolution_of_zero_goes_with_what_feeds_it() -> None:
    model = Depthwise()
    zero(model.deep.weight, [4])
    zero(model.deep.bias, [4])
    assert kept(model, IMAGE) == {"grow.weight:0": (0, 1, 2, 3, 5)}


def test_a_depthwise_convolution_that_shifts_keeps_its_channel() -> None:
    model = Depthwise()
    zero(model.grow.weight, [4])
    zero(model.grow.bias, [4])
    nn.init.ones_(model.deep.bias)
    assert kept(model, IMAGE) == {}


class Attention(nn.Module):
    """Grouped queries: four heads over two of keys and values, six wide."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 24), nn.Linear(8, 12), nn.Linear(8, 12)
        self.out = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (-1, 6)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return x + out


TOKENS = torch.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)


def test_a_head_that_the_projection_ignores_goes_with_its_group() -> None:
    model = Attention()
    zero(model.out.weight, range(12), dim=1)
    assert kept(model, TOKENS) == {"query.weight:0": (1,)}


def test_a_head_whose_values_are_zero_goes() -> None:
    model = Attention()
    zero(model.value.weight, range(6, 12))
    zero(model.value.bias, range(6, 12))
    assert kept(model, TOKENS) == {"query.weight:0": (0,)}


def test_dimensions_that_queries_and_keys_do_not_use_go() -> None:
    model = Attention()
    for layer, heads in ((model.query, 4), (model.key, 2)):
        zero(layer.weight, [head * 6 + 5 for head in range(heads)])
        zero(layer.bias, [head * 6 + 5 for head in range(heads)])
    assert kept(model, TOKENS) == {"query.weight:0.2": (0, 1, 2, 3, 4)}


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 10), nn.Linear(8, 10), nn.Linear(10, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.silu(self.gate(self.norm(x))) * self.up(x))
        return out


@pytest.mark.parametrize("name", ["gate", "up"])
def test_one_zero_factor_of_a_gated_unit_is_enough(name: str) -> None:
    model = Gated()
    layer = getattr(model, name)
    zero(layer.weight, [0, 9])
    zero(layer.bias, [0, 9])
    assert kept(model, TOKENS) == {"gate.weight:0": tuple(range(1, 9))}


def test_masks_of_torch_prune_are_made_physical() -> None:
    model = Gated()
    for layer in (model.gate, model.up):
        prune.ln_structured(layer, "weight", amount=4, n=2, dim=0)
        layer.bias = nn.Parameter(layer.bias * layer.weight_mask[:, 0])
    model.eval()
    both = model.gate.weight_mask[:, 0].bool() & model.up.weight_mask[:, 0].bool()
    found = kept(model, TOKENS)
    assert [*found.values()] == [tuple(both.nonzero()[:, 0].tolist())]


def test_an_axis_that_a_statistic_runs_over_stays() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    zero(model[0].weight, [0, 1])
    zero(model[0].bias, [0, 1])
    zero(model[2].weight, [0, 1], dim=1)
    assert kept(model, TOKENS) == {}


def test_a_concatenation_loses_from_the_part_that_is_dead() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(8, 5), nn.Linear(8, 4), nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.cat([self.left(x), torch.tanh(self.right(x))], dim=-1))
            return out

    model = Skip()
    zero(model.head.weight, [1, 5, 6], dim=1)
    assert kept(model, TOKENS) == {"left.weight:0": (0, 2, 3, 4), "right.weight:0": (2, 3)}


def test_a_recurrence_keeps_a_state_that_its_neighbours_read() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(x, torch.zeros(1, x.shape[0], 6))[0])
            return out

    model = Recurrent()
    zero(model.head.weight, [1, 5], dim=1)
    assert kept(model, TOKENS) == {}


def test_what_is_written_in_place_is_not_taken_for_zero() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            value = self.first(x)
            value += torch.ones(6)
            out: Tensor = self.head(value)
            return out

    model = Writes()
    zero(model.first.weight, [1, 5])
    zero(model.first.bias, [1, 5])
    assert kept(model, TOKENS) == {}


def test_a_zero_times_anything_is_an_idle_branch() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = nn.Linear(8, 8), nn.Parameter(torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x - self.scale * self.body(x))

    program = graphopt.capture(Scaled(), (TOKENS,))
    assert DeadParts(graphopt.DependencyGraph(program)).idle_sums() == {"sub": "x"}


def test_an_empty_dimension_is_no_obstacle() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 6), nn.Linear(6, 2)
            self.register_buffer("past", torch.zeros(2, 0, 6))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.cat([self.past, self.first(x)], dim=1))
            return out

    model = Grows()
    zero(model.head.weight, [1, 5], dim=1)
    assert kept(model, TOKENS) == {"first.weight:0": (0, 2, 3, 4)}


def test_what_only_feeds_an_ignored_state_is_read_by_the_others() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.state = nn.Linear(8, 5), nn.Linear(5, 4)
            self.cell, self.head = nn.RNNCell(8, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.cell(x, self.state(self.inner(x))))
            return out

    model = Cell()
    zero(model.state.weight[:, 2], [0, 2, 3])  # index 2 feeds state 1 alone ...
    zero(model.head.weight, [1], dim=1)  # ... which the head ignores, but the other states do not
    assert kept(model, TOKENS[:, 0]) == {}


class WritesToItsInput(nn.Module):
    """Takes the mean off its input where that lies."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        out: Tensor = self.last(torch.relu(self.first(x)))
        return out


def test_an_input_that_is_written_to() -> None:
    model = WritesToItsInput()
    for tensor in (model.first.weight, model.first.bias):
        zero(tensor.data, [1, 4])
    assert kept(model, torch.randn(3, 4)) == {"first.weight:0": (0, 2, 3, 5)}
