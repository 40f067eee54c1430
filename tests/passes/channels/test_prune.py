"""prune-channels: budgets, scopes, limits, steps, and what bad options say."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import BudgetError, GraphoptError, PreconditionError, SpecError
from graphopt.pass_manager import Result


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        hidden = 3 * width
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in parts)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(attended)
        return x + self.mlp(x)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(5, 32)
        self.blocks = nn.Sequential(Block(32, 4), Block(32, 4))
        self.head = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.inside(x)))


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    torch.manual_seed(0)
    return graphopt.capture(Tiny(), (torch.randn(4, 6, 5),))


@pytest.fixture
def prune(program: graphopt.Program) -> Callable[..., Result]:
    def run(options: str, **context: object) -> Result:
        given = {"verify": False, **context}
        return graphopt.Pipeline(f"prune-channels{{{options}}}").run(program, graphopt.PassContext(**given))

    return run


def shape(result: Result, name: str) -> tuple[int, ...]:
    return tuple(result.program.parameters[name].shape)


def calibration() -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(4, 6, 5, generator=generator)
    return {"calibration": [(batch,)], "loss": lambda output, _: (output - 1).square().mean()}


def test_ratio_takes_its_share_of_every_dimension(prune: Callable[..., Result]) -> None:
    result = prune("ratio=0.5")
    assert shape(result, "inside.weight") == (16, 5)
    assert shape(result, "blocks.0.qkv.weight") == (48, 16)
    assert shape(result, "blocks.0.mlp.1.weight") == (48, 16)
    assert shape(result, "head.weight") == (7, 16)


def test_heads_go_whole(prune: Callable[..., Result]) -> None:
    axes = prune("ratio=0.5").plan.axes
    assert {axis.kind: (len(axis.kept), axis.size) for axis in axes.values()} == {
        "residual": (16, 32),
        "head": (2, 4),
        "hidden": (48, 96),
    }


def test_kinds_choose_what_is_inside_a_head(prune: Callable[..., Result]) -> None:
    axes = prune("ratio=0.5,axes=[qk_dim,vo_dim]").plan.axes
    assert sorted({axis.kind for axis in axes.values()}) == ["qk_dim", "vo_dim"]
    assert {len(axis.kept) for axis in axes.values()} == {4}


@pytest.mark.parametrize("scope", ["uniform", "isomorphic", "global"])
@pytest.mark.parametrize("budget", ["params", "macs"])
def test_budgets_are_met_within_one_unit(prune: Callable[..., Result], budget: str, scope: str) -> None:
    result = prune(f"{budget}=0.6,scope={scope},axes=[hidden]")
    figure = "parameters_without_vocabulary" if budget == "params" else "macs"
    report = result.report.passes[0]
    reached = report.after[figure] / report.before[figure]
    one_unit = 0.01
    assert 0.6 - one_unit < reached <= 0.6


def test_global_ratio_removes_the_share_of_all_indices(prune: Callable[..., Result]) -> None:
    axes = prune("ratio=0.25,scope=global,axes=[hidden]").plan.axes
    removed = sum(axis.size - len(axis.kept) for axis in axes.values())
    assert removed == 48


def test_round_to_is_the_flat_size(prune: Callable[..., Result]) -> None:
    result = prune("ratio=0.4,round_to=8")
    for name, dims in result.plan.parameters().items():
        for dim in dims:
            assert shape(result, name)[dim] % 8 == 0, name


def test_axes_that_cannot_be_rounded_are_listed(prune: Callable[..., Result]) -> None:
    result = prune("ratio=0.4,round_to=32")
    assert shape(result, "inside.weight") == (32, 5)
    assert any("inside.weight" in line and "round_to=32" in line for line in result.report.passes[0].refused)


def test_caps_hold_after_the_step(prune: Callable[..., Result]) -> None:
    axes = prune("params=0.6,scope=global,max_ratio=0.5,keep_min=3", seed=3).plan.axes
    assert all(len(axis.kept) >= max(3, axis.size / 2) for axis in axes.values())


def test_unreachable_budgets_name_the_nearest(prune: Callable[..., Result]) -> None:
    with pytest.raises(BudgetError, match=r"\d"):
        prune("params=0.01,max_ratio=0.25")
    with pytest.raises(BudgetError, match="nearest reachable"):
        prune("ratio=0.5,max_ratio=0.25")


def test_ignored_and_own_ratios(prune: Callable[..., Result]) -> None:
    result = prune('ratio=0.5,ignore=["blocks.0.mlp.1.*"],ratios=["blocks.1.mlp.1.*=0.25"]')
    assert shape(result, "blocks.0.mlp.1.weight")[0] == 96
    assert shape(result, "blocks.1.mlp.1.weight")[0] == 72


def test_steps_reach_the_budget_in_original_indices(program: graphopt.Program, prune: Callable[..., Result]) -> None:
    result = prune("ratio=0.5,importance=taylor,steps=3", **calibration())
    assert shape(result, "blocks.0.mlp.1.weight") == (48, 16)
    graphopt.verify(program, result)


def test_a_second_pass_continues_in_original_indices(program: graphopt.Program) -> None:
    text = "prune-channels{ratio=0.25},prune-channels{ratio=0.5,axes=[hidden]}"
    result = graphopt.Pipeline(text).run(program)
    kept = result.plan.axes["blocks.0.mlp.1.weight:0"].kept
    assert (len(kept), max(kept) < 96) == (48, True)
    assert result.plan.passes == tuple(text.replace("},", "}|").split("|"))


def test_the_least_important_go(program: graphopt.Program, prune: Callable[..., Result]) -> None:
    kept = prune("ratio=0.5,axes=[hidden]").plan.axes["blocks.0.mlp.1.weight:0"].kept
    tensors = {name: tensor.detach().double() for name, tensor in program.parameters.items()}
    score = tensors["blocks.0.mlp.1.weight"].square().sum(1) + tensors["blocks.0.mlp.1.bias"].square()
    score += tensors["blocks.0.mlp.3.weight"].square().sum(0)
    assert kept == tuple(sorted(score.topk(48).indices.tolist()))


def test_random_follows_the_seed(prune: Callable[..., Result]) -> None:
    kept = [prune("ratio=0.5,importance=random", seed=seed).plan.kept for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_fuel_limits_the_axes(prune: Callable[..., Result]) -> None:
    assert len(prune("ratio=0.5", fuel=2).plan.axes) == 2


def test_nothing_to_remove_changes_nothing(program: graphopt.Program, prune: Callable[..., Result]) -> None:
    result = prune("ratio=0", verify=True)
    assert result.program is program
    assert result.plan.axes == {}


def test_the_users_model_is_left_alone() -> None:
    torch.manual_seed(0)
    model = Tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = torch.randn(4, 6, 5)
    context = graphopt.PassContext(**calibration())
    result = graphopt.optimize(model, (inputs,), passes="prune-channels{ratio=0.5,importance=taylor}", context=context)
    module = result.module()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
    loss = (module(inputs) - 1).square().mean()
    loss.backward()
    optimiser.step()
    assert (module(inputs) - 1).square().mean() < loss
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert set(module.state_dict()) == set(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "no budget"),
        ("ratio=0.5,macs=0.5", "exactly one"),
        ("ratio=1.5", "ratio"),
        ("params=0", "params"),
        ("ratio=0.5,importance=tailor", "importance"),
        ("ratio=0.5,axes=[heads]", "kinds among"),
        ("ratio=0.5,round_to=0", "round_to"),
        ('ratio=0.5,ratios=["head"]', "ratios"),
        ("ratoi=0.5", "ratio"),
        ("ratio=half", "ratio"),
    ],
)
def test_bad_options(prune: Callable[..., Result], options: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        prune(options)


def test_gradients_need_data(prune: Callable[..., Result]) -> None:
    with pytest.raises(PreconditionError, match="loss"):
        prune("ratio=0.5,importance=taylor")
    batches = [torch.randn(4, 6, 5)]
    with pytest.raises(PreconditionError, match="gradient"):
        prune("ratio=0.5,importance=taylor", calibration=batches, loss=lambda output, _: output.detach().sum())


def test_nan_in_weights_is_named() -> None:
    model = Tiny()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(PreconditionError, match=r"head\.weight"):
        graphopt.optimize(model, (torch.randn(4, 6, 5),), passes="prune-channels{ratio=0.5}")


def test_nothing_prunable_is_an_error() -> None:
    with pytest.raises(BudgetError, match="no axis"):
        graphopt.optimize(nn.Linear(3, 4), (torch.randn(2, 3),), passes="prune-channels{ratio=0.5}")


def test_what_round_to_leaves_short_is_listed(prune: Callable[..., Result]) -> None:
    result = prune("ratio=0.5,round_to=64,axes=[hidden]")
    assert any("0.3333 of the 0.5 asked for" in line and "step=64" in line for line in result.report.passes[0].refused)
    again = prune("ratio=0.5,round_to=64,axes=[hidden],max_ratio=0.9")
    assert again.plan.kept == result.plan.kept


@pytest.mark.parametrize("option", ["ignore=[blocks.0.mpl.*]", 'ratios=["blocks.9.*=0.1"]', 'ratios=["head.*=0.1"]'])
def test_patterns_that_fit_nothing_are_refused(prune: Callable[..., Result], option: str) -> None:
    with pytest.raises(SpecError, match="found no parameter"):
        prune(f"ratio=0.5,{option}")


def test_kinds_that_are_not_there_are_named(prune: Callable[..., Result]) -> None:
    with pytest.raises(BudgetError, match="kind residual was not asked for"):
        prune("ratio=0.5,axes=[channel]")


def test_axes_on_buffers_alone_stay_whole() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("first", torch.randn(8, 5))
            self.register_buffer("second", torch.randn(4, 8))
            self.hidden, self.head = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.hidden(x)), nn.functional.linear(nn.functional.linear(x, self.first), self.second)

    result = graphopt.optimize(Tables(), (torch.randn(3, 5),), passes="prune-channels{ratio=0.5}")
    assert any("buffers alone" in line for line in result.report.passes[0].refused)
    assert result.program.parameters["first"].shape == (8, 5)


def test_the_nearest_ratio_is_reachable(prune: Callable[..., Result]) -> None:
    with pytest.raises(BudgetError, match=r"under max_ratio=0\.2 .* the nearest reachable is ratio=") as caught:
        prune("ratio=0.5,max_ratio=0.2")
    result = prune(f"ratio={caught.value.nearest:g},max_ratio=0.2")
    assert all(1 - len(axis.kept) / axis.size <= 0.2 for axis in result.plan.axes.values())
    assert any("stays whole" in line or "asked for" in line for line in result.report.passes[0].refused)


def test_weights_on_the_meta_device_are_refused() -> None:
    program = graphopt.capture(Tiny().to("meta"), (torch.randn(4, 6, 5, device="meta"),))
    with pytest.raises(PreconditionError, match="on the meta device"):
        graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)


def test_a_random_choice_needs_no_weights() -> None:
    program = graphopt.capture(Tiny().to("meta"), (torch.randn(4, 6, 5, device="meta"),))
    pipeline = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}")
    result = pipeline.run(program, graphopt.PassContext(seed=0, verify=False))
    real = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(
        graphopt.capture(Tiny(), (torch.randn(4, 6, 5),)), graphopt.PassContext(seed=0)
    )
    assert result.plan is not None
    assert real.plan is not None
    assert result.plan.kept == real.plan.kept
    with pytest.raises(GraphoptError, match=r"on the meta device, so nothing runs; give PassContext\(verify=False\)"):
        pipeline.run(program)
