import json

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import GraphoptError
from graphopt.report import inspect_program
from graphopt.report.inspection import explain_parameter


class Tied(nn.Module):
    """An embedding tied to the head over a residual stream, with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 12)
        self.down = nn.Linear(12, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.down(self.up(self.norm(x)).relu()) * self.scale
        return self.head(x)


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    return graphopt.capture(Tied(), (torch.zeros(2, 3, dtype=torch.long),))


def test_savings_are_what_slicing_saves(program: graphopt.Program) -> None:
    inspection = inspect_program(program)
    for group in inspection.groups:
        passes = graphopt.PruneChannels(ratio=0.5, ratios=(), axes=(group.kind,))
        result = graphopt.Pipeline(passes).run(program, graphopt.PassContext(verify=False))
        report = result.report.passes[0]
        assert report.before["parameters"] - report.after["parameters"] == group.parameters_of_half
        assert report.before["macs"] - report.after["macs"] == group.macs_of_half


def test_every_axis_has_its_kind_members_and_marks(program: graphopt.Program) -> None:
    found = {
        group.kind: (group.size, group.parameters_per_unit, group.marks) for group in inspect_program(program).groups
    }
    # One residual index: 10 of the table, counted once though tied, 2 of the norm, 12 + 12 + 1 of the two layers.
    assert found == {"residual": (6, 37, ("statistic",)), "hidden": (12, 13, ())}


def test_the_document_is_json_and_whole(program: graphopt.Program) -> None:
    inspection = inspect_program(program)
    document = json.loads(json.dumps(inspection.to_dict()))
    assert document["model"] == "Tied"
    assert document["totals"]["parameters"] == sum(parameter.numel() for parameter in Tied().parameters())
    frozen = [(axis["tensor"], axis["dim"]) for entry in document["frozen"] for axis in entry["axes"]]
    assert ("table.weight", 0) in frozen
    assert [len(entry["axes"]) for entry in document["frozen"]] == sorted(
        (len(entry["axes"]) for entry in document["frozen"]), reverse=True
    )


def test_weights_are_not_needed() -> None:
    with torch.device("meta"):
        model, tokens = Tied(), torch.zeros(2, 3, dtype=torch.long)
    inspection = inspect_program(graphopt.capture(model, (tokens,)))
    assert [group.kind for group in inspection.groups] == ["residual", "hidden"]


def test_explain_names_what_is_missing(program: graphopt.Program) -> None:
    assert explain_parameter(program, "up.bias") == explain_parameter(program, "up.bias:0")
    assert explain_parameter(program, "scale") == "scale is a single number, so there is nothing to prune"
    with pytest.raises(GraphoptError, match=r"called 'up\.bais'; did you mean up\.bias"):
        explain_parameter(program, "up.bais")


def test_groups_are_ranked_by_what_one_unit_saves(program: graphopt.Program) -> None:
    by_macs = inspect_program(program)
    assert [group.macs_per_unit for group in by_macs.groups] == [6 * 34, 6 * 12]
    fewer = inspect_program(program, by="parameters", top=1)
    assert (fewer.count, [group.kind for group in fewer.groups]) == (2, ["residual"])
    assert fewer.to_dict()["count"] == 2
    with pytest.raises(GraphoptError, match="found 'time' to rank by, wanted one of macs, parameters, milliseconds"):
        inspect_program(program, by="time")


def test_measured_groups_carry_times(program: graphopt.Program) -> None:
    inspection = inspect_program(program, by="milliseconds")
    timings = [group.timing for group in inspection.groups]
    assert all(timing is not None and timing.seconds > 0 and timing.untimed == 0 for timing in timings)
    per_unit = [group.seconds_per_unit or 0.0 for group in inspection.groups]
    assert per_unit == sorted(per_unit, reverse=True)
    document = inspection.to_dict()
    assert document["totals"]["seconds"] > 0
    assert document["groups"][0]["timing"]["operators"] > 0
    assert document["groups"][0]["seconds_per_unit"] == per_unit[0]
    assert "timing" not in inspect_program(program).to_dict()["groups"][0]
