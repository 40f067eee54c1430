import pytest
import torch
from torch import nn

import graphopt
from graphopt.dependency import registry
from graphopt.dependency.ties import Dims, Ties
from graphopt.errors import GraphoptError


def without_size(t: Ties) -> Dims:
    """A rule that takes a dimension for something that has a size."""
    dims = t.dims("self")
    assert dims[-1].size  # type: ignore[attr-defined]
    return dims


def too_short(t: Ties) -> Dims:
    """A rule for tensors with another dimension."""
    return [t.dims("self")[7]]


def graph_with(rule: object, monkeypatch: pytest.MonkeyPatch) -> graphopt.DependencyGraph:
    known = registry.rule_table()["aten.relu.default"]
    wrong = registry.Rule(known.target, rule, known.sample, known.zeros, known.freezes)  # type: ignore[arg-type]
    monkeypatch.setitem(registry._TABLE, known.target, wrong)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return graphopt.DependencyGraph(graphopt.capture(model, (torch.randn(2, 4),)))


def test_a_rule_that_raises_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (
        r"coupling rule of aten\.relu\.default raises AttributeError: .*no attribute 'size'.*test_wrong_rules\.py:\d+: "
    )
    with pytest.raises(GraphoptError, match=found):
        assert graph_with(without_size, monkeypatch).groups


def test_a_rule_that_does_not_fit_freezes_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_with(too_short, monkeypatch)
    assert graph.groups == ()
    assert "the coupling rule does not fit (list index out of range)" in graph.explain("0.weight")
