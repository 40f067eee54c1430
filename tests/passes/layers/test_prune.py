"""prune-layers: names, budgets, limits, reports, and what bad options say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from passes.layers.tiny import MODELS, Stack, normal
from torch import Tensor, nn

import graphopt
from graphopt.errors import BudgetError, GraphoptError, PreconditionError, SpecError
from graphopt.pass_manager import Result

Prune = Callable[..., Result]


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    model, args, kwargs = MODELS["stack"]()
    return graphopt.capture(model, args, kwargs)


@pytest.fixture(scope="module")
def blocks() -> graphopt.Program:
    model, args, kwargs = MODELS["vit"]()
    return graphopt.capture(model, args, kwargs)


@pytest.fixture
def prune(program: graphopt.Program) -> Prune:
    def run(options: str, on: graphopt.Program = program, **context: object) -> Result:
        given = {"verify": False, **context}
        return graphopt.Pipeline(f"prune-layers{{{options}}}").run(on, graphopt.PassContext(**given))

    return run


def gone(result: Result) -> list[str]:
    assert result.plan is not None
    return [one.id for one in result.plan.bypassed]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ("layers=[2,0]", ["block.0", "block.2"]),
        ("layers=[block.1]", ["block.1"]),
        ("layers=[branches.3]", ["block.3"]),
        ('layers=["branches.[01]"]', ["block.0", "block.1"]),
        ("units=branch,layers=[3]", ["branch.3"]),
        ("layers=[branch.1]", ["branch.1"]),
    ],
)
def test_layers_by_number_id_and_module(prune: Prune, options: str, ids: list[str]) -> None:
    assert gone(prune(options)) == ids


def test_what_lies_in_a_chosen_block_is_left_out_with_it(prune: Prune, blocks: graphopt.Program) -> None:
    both = prune('layers=[block.1,"branch.*"]', on=blocks)
    assert gone(both) == ["branch.0", "branch.1", "block.1", "branch.4", "branch.5", "branch.6", "branch.7"]
    assert gone(prune("layers=[block.1,branch.2,branch.4]", on=blocks)) == ["block.1", "branch.4"]


def test_count_takes_the_least(prune: Prune) -> None:
    assert gone(prune("count=1")) == ["block.0"]
    assert gone(prune("count=3")) == ["block.0", "block.2", "block.3"]


def test_ratio_keeps_the_floor(prune: Prune) -> None:
    assert [len(gone(prune(f"ratio={ratio}"))) for ratio in (0.0, 0.2, 0.25, 0.3, 0.75)] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(("option", "figure"), [("params", "parameters_without_vocabulary"), ("macs", "macs")])
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3])
def test_a_share_is_met_with_the_least_loss(prune: Prune, option: str, figure: str, share: float) -> None:
    report = prune(f"{option}={share}").report.passes[0]
    assert report.after[figure] <= share * report.before[figure]


@pytest.mark.parametrize("seed", range(6))
def test_no_set_of_layers_loses_less(prune: Prune, seed: int) -> None:
    sizes = {"block.0": 236, "block.1": 1036, "block.2": 436, "block.3": 636}
    numbers = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    losses = dict(zip(sizes, numbers, strict=True))
    need = 0.38 * 2_455
    sets = [[name for bit, name in enumerate(sizes) if mask >> bit & 1] for mask in range(16)]
    enough = [chosen for chosen in sets if sum(sizes[name] for name in chosen) >= need]
    best = min(enough, key=lambda chosen: sum(losses[name] for name in chosen))
    assert gone(prune("params=0.62,importance=random", seed=seed)) == best


def test_latency_asks_for_measured_seconds(prune: Prune) -> None:
    result = prune("latency=0.99")
    assert 1 <= len(gone(result)) < 4
    with pytest.raises(BudgetError, match=r"latency=0\.0001 cannot be reached: 0\.\d+ are left"):
        prune("latency=0.0001")


def test_limits_are_kept_and_listed(prune: Prune) -> None:
    result = prune('count=1,keep_first=1,keep_last=1,ignore=["branches.2"]')
    assert gone(result) == ["block.1"]
    assert result.report.passes[0].refused == (
        "block.0 (branches.0) stays: keep_first=1",
        "block.2 (branches.2) stays: ignored by 'branches.2'",
        "block.3 (branches.3) stays: keep_last=1",
    )


def test_a_kind_of_branch_is_ignored(prune: Prune, blocks: graphopt.Program) -> None:
    result = prune("units=branch,count=4,ignore=[attention]", on=blocks)
    assert gone(result) == ["branch.1", "branch.3", "branch.5", "branch.7"]


def test_the_report_says_what_went(prune: Prune) -> None:
    report = prune("count=1").report.passes[0]
    assert report.before["parameters"] - report.after["parameters"] == 236
    assert report.notes[0].startswith("block.0 (branches.0) is left out, linear for add: 236 parameters, 4,608 MACs")


def test_an_input_that_lost_its_readers_is_named() -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(8, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            x = x + self.first(x).relu()
            return x + self.third(self.second(torch.cat([x, condition], -1)).relu())

    spec = "prune-layers{units=branch,layers=[1]}"
    result = graphopt.optimize(Conditioned(), (normal(3, 4), normal(3, 4, seed=2)), passes=spec)
    assert "the input condition is read by nothing any more" in result.report.passes[0].notes


def test_fuel_limits_how_many_go(prune: Prune) -> None:
    assert gone(prune("count=3", fuel=2)) == ["block.0", "block.2"]
    unchanged = prune("count=3", fuel=0)
    assert unchanged.report.passes[0].refused == ("not run: no fuel left",)


def test_nothing_to_do_changes_nothing(prune: Prune, program: graphopt.Program) -> None:
    assert prune("ratio=0.0").program is program


def test_weights_of_the_model_are_shared_and_untouched(prune: Prune, program: graphopt.Program) -> None:
    before = {name: tensor.clone() for name, tensor in program.parameters.items()}
    result = prune("count=2")
    for name, tensor in result.program.parameters.items():
        assert tensor is program.parameters[name]
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.parameters.items())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ("", SpecError, "found no budget, wanted exactly one of layers"),
        ("count=1,ratio=0.5", SpecError, "found count and ratio, wanted exactly one"),
        ("count=0", SpecError, "option count: found 0, wanted a number from 1 up"),
        ("ratio=1.0", SpecError, r"option ratio: found 1.0, wanted a share in \[0, 1\)"),
        ("macs=1.5", SpecError, "option macs: found 1.5, wanted a share"),
        ("count=1,importance=l3", SpecError, "wanted one of bi, magnitude, taylor, output-loss, random"),
        ("layers=[1],keep_first=1", SpecError, "option keep_first: found 1, wanted 0 where layers says"),
        ("layers=[]", SpecError, "wanted at least one branch or block"),
        ("count=1,units=layer", SpecError, "option units"),
        ("layers=[branches.7]", SpecError, r"found no block for 'branches.7' in layers; did you mean branches\."),
        ("layers=[9]", SpecError, "found no block for '9' in layers"),
        ("count=1,ignore=[head]", SpecError, "found no block for 'head' in ignore"),
        ("count=5", BudgetError, "count=5 cannot be reached: 4 may go; ask for count=4 or fewer"),
        ("ratio=0.9,keep_first=1", BudgetError, r"that is 4 of 4, and 3 may go; ask for ratio=0\.75 or less"),
        ("params=0.01", BudgetError, r"params=0\.01 cannot be reached: 0\.04\d+ are left when all has gone"),
    ],
)
def test_what_cannot_be_done_is_said(prune: Prune, options: str, kind: type[GraphoptError], message: str) -> None:
    with pytest.raises(kind, match=message):
        prune(options)


def test_the_nearest_reachable_share_is_reachable(prune: Prune) -> None:
    with pytest.raises(BudgetError) as caught:
        prune("params=0.01")
    assert len(gone(prune(f"params={caught.value.nearest}"))) == 4


def test_a_model_without_residuals_has_nothing_to_leave_out(prune: Prune) -> None:
    plain = graphopt.capture(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), (normal(3, 4),))
    with pytest.raises(PreconditionError, match="Sequential has no branch that may be left out"):
        prune("units=branch,count=1", on=plain)


def test_a_branch_that_writes_in_place_is_not_offered(prune: Prune) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            hidden[:, :2] = hidden[:, 2:].sin()
            x = x + self.second(hidden)
            return x + self.third(x)

    writing = graphopt.capture(Writing(), (normal(3, 4),))
    result = prune("units=branch,count=1", on=writing)
    assert gone(result) == ["branch.1"]
    assert result.report.passes[0].frozen[0].endswith("copy_ writes in place to what is read elsewhere")


def test_weights_on_the_meta_device_are_refused(prune: Prune) -> None:
    with torch.device("meta"):
        model = Stack()
    program = graphopt.capture(model.eval(), (torch.empty(4, 6, 5, device="meta"),))
    with pytest.raises(PreconditionError, match="are on the meta device, so nothing ranks its layers"):
        prune("count=1", on=program)


def test_the_text_makes_the_pass_again() -> None:
    pass_ = graphopt.Pipeline('prune-layers{units=branch,layers=[3,"*.attn1"]}').passes[0]
    assert graphopt.Pipeline(str(pass_)).passes[0] == pass_
