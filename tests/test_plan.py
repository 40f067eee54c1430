"""Plans: JSON and its schema, replay on models and state dicts, and what is refused."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import PlanError
from graphopt.rewrite.replay import replay

SCHEMA = json.loads((Path(graphopt.__file__).parent / "plan.schema.json").read_text(encoding="utf-8"))
INPUTS = (torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0)),)


class TiedModel(nn.Module):
    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.mlp = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 8))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.head(x + self.mlp(x))


@pytest.fixture(scope="module")
def model() -> TiedModel:
    torch.manual_seed(0)
    return TiedModel()


@pytest.fixture(scope="module")
def result(model: TiedModel) -> graphopt.Result:
    return graphopt.optimize(model, INPUTS, passes="prune-channels{ratio=0.5}")


def test_the_json_follows_its_schema(result: graphopt.Result) -> None:
    assert result.plan is not None
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(result.plan.to_json()))


def test_json_and_back_is_the_same_plan(result: graphopt.Result) -> None:
    assert result.plan is not None
    again = graphopt.Plan.from_json(result.plan.to_json())
    assert again.to_json() == result.plan.to_json()


def test_parameters_names_kept_indices_of_tied_tensors_too(result: graphopt.Result) -> None:
    assert result.plan is not None
    kept = result.plan.parameters()
    assert kept["head.weight"] == kept["table.weight"]
    assert [len(kept[name][dim]) for name, dim in (("table.weight", 1), ("mlp.0.weight", 0), ("mlp.0.weight", 1))] == [
        4,
        6,
        4,
    ]


def test_replay_on_a_fresh_model_and_on_a_state_dict(model: TiedModel, result: graphopt.Result) -> None:
    assert result.plan is not None
    fresh = TiedModel()
    fresh.load_state_dict(model.state_dict())
    again = replay(graphopt.Plan.from_json(result.plan.to_json()), graphopt.capture(fresh, INPUTS))
    assert torch.equal(again(*INPUTS), result.program(*INPUTS))
    sliced = result.plan.slice_state_dict(model.state_dict())
    assert all(torch.equal(tensor, result.program.parameters[name]) for name, tensor in sliced.items())


def test_tied_tensors_stay_tied(result: graphopt.Result) -> None:
    parameters = result.program.parameters
    assert parameters["head.weight"].data_ptr() == parameters["table.weight"].data_ptr()
    assert result.program.parameters["table.weight"].shape == (11, 4)


def test_another_model_is_refused_with_the_first_difference(result: graphopt.Result) -> None:
    assert result.plan is not None
    with pytest.raises(PlanError, match=r"mlp\.0\.weight is \[12, 8\] .* \[16, 8\]"):
        replay(result.plan, graphopt.capture(TiedModel(hidden=16), INPUTS))


def test_another_state_dict_is_refused(result: graphopt.Result) -> None:
    assert result.plan is not None
    with pytest.raises(PlanError, match=r"\[16, 8\]"):
        result.plan.slice_state_dict(TiedModel(hidden=16).state_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1}', "damaged"),
    ],
)
def test_damaged_plans(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        graphopt.Plan.from_json(text)


@pytest.mark.parametrize("kept", [[], [0, 0], [1, 0], [0, 99], [-1, 2]])
def test_kept_indices_are_an_ascending_choice(result: graphopt.Result, kept: list[int]) -> None:
    assert result.plan is not None
    data = result.plan.to_dict()
    axis = next(iter(data["axes"].values()))
    axis["kept"] = kept
    with pytest.raises(PlanError, match="ascending choice"):
        graphopt.Plan.from_dict(data)


def test_a_state_dict_of_another_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    plan = graphopt.optimize(model, (torch.randn(2, 8),), passes="prune-channels{ratio=0.5}").plan
    with pytest.raises(PlanError, match=r"without module\.0\.weight \(and 3 more\)"):
        plan.slice_state_dict({f"module.{name}": tensor for name, tensor in model.state_dict().items()})
