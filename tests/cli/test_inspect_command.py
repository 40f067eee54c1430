import json
from collections.abc import Callable
from typing import Any

import torch

from graphopt.alignment import preferred_multiple

Run = Callable[..., Any]


def test_groups_savings_and_frozen_axes(run: Run) -> None:
    outcome = run("inspect", "net_model.py:build")
    lines = [line.split() for line in outcome.out.splitlines()]
    found = next(line for line in lines if line[:1] == ["up.weight:0"])
    assert (outcome.code, outcome.err) == (0, "")
    assert "Net: 1 coupling groups" in outcome.out
    # 13 = 8 weights in, 1 bias, 4 weights out; half of 32 units is 208 of 420 parameters and 384 of 768 MACs.
    assert found[:-1] == ["up.weight:0", "hidden", "32", "3", "13", "24", "208", "(49.5%)", "384", "(50.0%)"]
    assert "an output of the model 2 down.weight:0, down.bias:0" in [" ".join(line) for line in lines]
    assert "parameters 420, parameter bytes 1.68kB, MACs 768, activation peak 576B" in outcome.out


def test_json_is_the_only_thing_on_standard_output(run: Run) -> None:
    outcome = run("inspect", "net_model.py:build", "--json")
    document = json.loads(outcome.out)
    assert outcome.err == "said by the model\n"
    assert document["model"] == "Net"
    assert document["totals"] == {"parameters": 420, "parameter_bytes": 1680, "macs": 768, "activation_peak_bytes": 576}
    round_to = document["groups"][0].pop("round_to")
    assert round_to == {device: preferred_multiple(torch.float32, device) for device in ("cuda", "cpu")}
    assert (document["by"], document["count"], document["odd_widths"]) == ("macs", 1, [])
    assert document["groups"] == [
        {
            "id": "up.weight:0",
            "kind": "hidden",
            "size": 32,
            "members": 3,
            "marks": [],
            "parameters_per_unit": 13,
            "macs_per_unit": 24,
            "parameters_of_half": 208,
            "macs_of_half": 384,
        }
    ]
    assert document["frozen"][0] == {
        "reason": "an output of the model",
        "axes": [{"tensor": "down.weight", "dim": 0, "size": 4}, {"tensor": "down.bias", "dim": 0, "size": 4}],
    }


def test_measured_times_of_the_first_group(run: Run) -> None:
    outcome = run("inspect", "net_model.py:build", "--by", "milliseconds", "--top", "1", "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 0
    assert document["totals"]["seconds"] > 0
    assert document["groups"][0]["timing"]["operators"] == 3
    table = run("inspect", "net_model.py:build", "--measure").out
    assert "ms/unit" in table
    assert "shares are of the whole program's" in table
    wrong = run("inspect", "net_model.py:build", "--by", "seconds")
    assert wrong.err == "error: found 'seconds' to rank by, wanted one of macs, parameters, milliseconds\n"


def test_explain_one_dimension_or_all(run: Run) -> None:
    one = run("inspect", "net_model.py:build_named", "--explain", "down.weight:1")
    every = run("inspect", "net_model.py:build_named", "--explain", "down.weight", "--json")
    coupled = [
        "down.weight dimension 1 of size 32",
        "  hidden axis up.weight:0 of 32, coupled to:",
        "    up.weight dimension 0",
        "    up.bias dimension 0",
        "    down.weight dimension 1",
    ]
    assert one.out.splitlines() == coupled
    assert json.loads(every.out) == {
        "parameter": "down.weight",
        "explanation": [
            "down.weight dimension 0 of size 4",
            "  frozen part of 4: an output of the model",
            *coupled,
        ],
    }


def test_explain_what_is_not_there(run: Run) -> None:
    name = run("inspect", "net_model.py:build", "--explain", "up.wieght")
    number = run("inspect", "net_model.py:build", "--explain", "up.weight:first")
    beyond = run("inspect", "net_model.py:build", "--explain", "up.weight:2")
    assert name.err.startswith("error: found no parameter or buffer called 'up.wieght'; did you mean up.weight or")
    assert number.err.startswith("error: found 'first' after up.weight:, wanted the number of a dimension")
    assert beyond.err == "error: up.weight has 2 dimensions, so there is no dimension 2\n"
    assert {name.code, number.code, beyond.code} == {1}


def test_regions_are_listed(run: Run) -> None:
    outcome = run("inspect", "net_model.py:build", "--regions", "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 0
    assert {"sample", "branches", "blocks", "stacks", "skips"} <= document.keys()
    assert "regions seen from x" in run("inspect", "net_model.py:build", "--regions").out
