"""uniform_per_layer: sizes that one number of a configuration stands for stay equal, under every budget."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import BudgetError
from graphopt.pass_manager import Result

WIDTH, HEADS, SIZE, HIDDEN = 24, 4, 6, 40


class Layer(nn.Module):
    """Separate projections, so that q, k, v and the output are square."""

    def __init__(self, width: int, heads: int, size: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, heads * size) for _ in range(3))
        self.out = nn.Linear(heads * size, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        y = self.norm(x)
        q, k, v = (part(y).view(batch, tokens, self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.down(nn.functional.gelu(self.up(x)))


class Model(nn.Module):
    def __init__(self, *, size: int = SIZE, hidden: int = HIDDEN, returns_stream: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(5, WIDTH)
        self.layers = nn.Sequential(*(Layer(WIDTH, HEADS, size, hidden) for _ in range(2)))
        self.leave = None if returns_stream else nn.Linear(WIDTH, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.enter(x))
        return x if self.leave is None else self.leave(x)


def capture(**options: object) -> graphopt.Program:
    torch.manual_seed(0)
    model = Model(**options)
    with torch.no_grad():  # layers of very different size, so that a global ranking tells them apart
        for number, layer in enumerate(model.layers):
            for parameter in layer.parameters():
                parameter.mul_(4.0**number)
    return graphopt.capture(model, (torch.randn(2, 3, 5),))


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    return capture()


@pytest.fixture
def prune(program: graphopt.Program) -> Callable[..., Result]:
    def run(options: str, of: graphopt.Program = program, *, verify: bool = False) -> Result:
        context = graphopt.PassContext(verify=verify)
        return graphopt.Pipeline(f"prune-channels{{{options}}}").run(of, context)

    return run


def shape(result: Result, name: str) -> tuple[int, ...]:
    return tuple(result.program.parameters[name].shape)


def weights(program: graphopt.Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in program.parameters.items() if one.dim() > 1}


def unequal(program: graphopt.Program, result: Result) -> list[str]:
    """Weights of one shape that have different ones now, and square ones that are none any more."""
    before, after = weights(program), weights(result.program)
    pairs = [f"{one} {other}" for one, other in combinations(before, 2) if before[one] == before[other]]
    broken = [pair for pair in pairs if after[pair.split()[0]] != after[pair.split()[1]]]
    squares = [name for name, sizes in before.items() if sizes[0] == sizes[1]]
    return broken + [name for name in squares if after[name][0] != after[name][1]]


BUDGETS = ["ratio=0.3", "params=0.6", "macs=0.6"]


@pytest.mark.parametrize("scope", ["uniform", "isomorphic", "global"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_what_is_alike_stays_alike(
    program: graphopt.Program, prune: Callable[..., Result], budget: str, scope: str
) -> None:
    result = prune(f"{budget},scope={scope},uniform_per_layer")
    assert result.plan.axes
    assert unequal(program, result) == []


@pytest.mark.parametrize("budget", BUDGETS)
def test_without_it_layers_part(program: graphopt.Program, prune: Callable[..., Result], budget: str) -> None:
    assert unequal(program, prune(f"{budget},scope=global"))


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_budgets_are_met(prune: Callable[..., Result], budget: str) -> None:
    report = prune(f"{budget}=0.6,scope=global,uniform_per_layer").report.passes[0]
    figure = "parameters_without_vocabulary" if budget == "params" else "macs"
    assert report.after[figure] <= 0.6 * report.before[figure]


def test_the_width_is_that_of_the_heads(prune: Callable[..., Result]) -> None:
    """Three tenths of the width would be 16 of 24, which three heads of six are not."""
    result = prune("ratio=0.3,uniform_per_layer,axes=[head,residual]", verify=True)
    assert shape(result, "layers.0.q.weight") == shape(result, "layers.1.out.weight") == (12, 12)
    assert shape(prune("ratio=0.3,axes=[head,residual]"), "layers.0.q.weight") == (12, 16)


def test_indices_may_differ(prune: Callable[..., Result]) -> None:
    axes = prune("ratio=0.5,uniform_per_layer,axes=[hidden]").plan.axes
    first, second = (axes[f"layers.{number}.up.weight:0"].kept for number in (0, 1))
    assert len(first) == len(second)
    assert first != second


def test_queries_and_values_of_a_head_keep_one_size(prune: Callable[..., Result]) -> None:
    """What is inside heads cannot go beside a width that stays, unless it is a number of its own."""
    with pytest.raises(BudgetError, match="uniform_per_layer keeps equal sizes equal"):
        prune("ratio=0.5,axes=[qk_dim,vo_dim],uniform_per_layer")
    axes = prune("ratio=0.5,axes=[qk_dim,vo_dim],scope=global,uniform_per_layer=own_head_size").plan.axes
    assert {axis.kind for axis in axes.values()} == {"qk_dim", "vo_dim"}
    assert {len(axis.kept) for axis in axes.values()} == {3}
    free = prune("ratio=0.5,axes=[qk_dim,vo_dim],scope=global").plan.axes
    assert len({len(axis.kept) for axis in free.values()}) > 1


def test_heads_stay_beside_a_width_that_is_returned(prune: Callable[..., Result]) -> None:
    returned = capture(returns_stream=True)
    report = prune("ratio=0.5,uniform_per_layer", of=returned).report.passes[0]
    result = prune("ratio=0.5,uniform_per_layer", of=returned)
    assert {axis.kind for axis in result.plan.axes.values()} == {"hidden"}
    assert any("a width of 24 is frozen: an output of the model" in line for line in report.refused)
    assert any("uniform_per_layer=own_head_size" in line for line in report.notes)


def test_a_head_size_of_its_own_frees_them(prune: Callable[..., Result]) -> None:
    returned = capture(returns_stream=True)
    result = prune("ratio=0.5,uniform_per_layer=own_head_size", of=returned, verify=True)
    assert shape(result, "layers.0.q.weight") == shape(result, "layers.1.v.weight") == (12, 24)
    assert shape(result, "layers.0.out.weight") == (24, 12)


def test_heads_apart_from_the_width_need_no_word(prune: Callable[..., Result]) -> None:
    """Where heads times their size is another number than the width, nothing ties the two."""
    apart = capture(size=5, returns_stream=True)
    result = prune("ratio=0.5,uniform_per_layer", of=apart)
    assert shape(result, "layers.0.q.weight") == (10, 24)


@pytest.mark.parametrize(("scope", "kept"), [("uniform", 48), ("isomorphic", 67)])
def test_whole_multiples_stay_where_all_lose_the_same_share(
    prune: Callable[..., Result], scope: str, kept: int
) -> None:
    result = prune(f"ratio=0.3,scope={scope},uniform_per_layer", of=capture(hidden=4 * WIDTH))
    assert shape(result, "layers.0.up.weight") == (kept, 12)


def test_multiples_of_a_width_that_stays_may_go(prune: Callable[..., Result]) -> None:
    result = prune("ratio=0.3,uniform_per_layer", of=capture(hidden=4 * WIDTH, returns_stream=True))
    assert shape(result, "layers.0.up.weight") == shape(result, "layers.1.up.weight") == (67, 24)


def test_an_axis_that_is_ignored_keeps_those_like_it(prune: Callable[..., Result]) -> None:
    result = prune('ratio=0.5,uniform_per_layer,ignore=["layers.0.up.bias"]')
    assert shape(result, "layers.1.up.weight") == (HIDDEN, 12)
    lines = [line for line in result.report.passes[0].refused if line.startswith("layers.1.up.weight:0 ")]
    assert "layers.0.up.weight:0 stays whole" in lines[0]


def test_one_ratio_holds_for_all_that_are_alike(prune: Callable[..., Result]) -> None:
    result = prune('ratio=0.5,uniform_per_layer,ratios=["layers.0.up.*=0.25"]')
    assert shape(result, "layers.0.up.weight")[0] == shape(result, "layers.1.up.weight")[0] == 30
    with pytest.raises(BudgetError, match="one ratio"):
        prune('ratio=0.5,uniform_per_layer,ratios=["layers.0.up.*=0.25","layers.1.up.*=0.5"]')


def test_limits_compose(program: graphopt.Program, prune: Callable[..., Result]) -> None:
    result = prune("ratio=0.4,scope=global,uniform_per_layer,round_to=4,keep_min=2,max_ratio=0.7,steps=2")
    assert unequal(program, result) == []
    for name, dims in result.plan.parameters().items():
        assert all(shape(result, name)[dim] % 4 == 0 for dim in dims), name
    assert all(len(axis.kept) >= max(2, 0.3 * axis.size) for axis in result.plan.axes.values())


def test_a_second_pass_levels_what_the_first_left(program: graphopt.Program) -> None:
    text = "prune-channels{params=0.9,scope=global},prune-channels{params=0.5,scope=global,uniform_per_layer}"
    result = graphopt.Pipeline(text).run(program)
    assert unequal(program, result) == []


class Convolutions(nn.Module):
    """Two skip connections are concatenated; a GroupNorm runs across the border."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, 12, 1)
        self.stages = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(2))
        self.norm, self.leave = nn.GroupNorm(3, 24), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.enter(x)]
        for stage in self.stages:
            kept.append(nn.functional.relu(stage(kept[-1])))
        return self.leave(self.norm(torch.cat(kept[1:], 1)))


@pytest.mark.parametrize("regroup", ["", ",regroup"])
def test_convolutions_keep_one_width(prune: Callable[..., Result], regroup: str) -> None:
    torch.manual_seed(0)
    captured = graphopt.capture(Convolutions(), (torch.randn(2, 2, 4, 4),))
    result = prune(f"ratio=0.5,scope=global,uniform_per_layer{regroup}", of=captured)
    assert result.plan.axes
    assert unequal(captured, result) == []
    rows, columns = shape(result, "stages.0.weight")[:2]
    assert rows == columns < 12
    assert shape(result, "leave.weight")[1] == 2 * rows
