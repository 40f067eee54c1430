"""The time of a step with old values: cycles against enumeration, two devices against the closed form."""

from __future__ import annotations

import random

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import PlanError
from graphopt.partition.devices import equal_devices
from graphopt.partition.evaluation import Placement, evaluate
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.period import Arc, cycle_ratio, period
from graphopt.partition.workload import INPUT, Value, Workload


def ratio_by_enumeration(arcs: list[Arc]) -> float:
    graph = nx.MultiDiGraph()
    for number, arc in enumerate(arcs):
        graph.add_edge(arc.source, ("arc", number))
        graph.add_edge(("arc", number), arc.target)
    ratios = [0.0]
    for cycle in nx.simple_cycles(nx.DiGraph(graph)):
        own = [arcs[node[1]] for node in cycle if isinstance(node, tuple)]
        ratios.append(sum(arc.seconds for arc in own) / sum(arc.delay for arc in own))
    return max(ratios)


@pytest.mark.parametrize("seed", range(60))
def test_cycle_ratio_equals_enumeration(seed: int) -> None:
    dice = random.Random(seed)
    arcs = [
        Arc(
            dice.randrange(5),
            dice.randrange(5),
            dice.choice([0.0, dice.random(), 10 * dice.random()]),
            dice.choice([1, 1, 2]),
        )
        for _ in range(dice.randint(1, 10))
    ]
    assert cycle_ratio(arcs) == pytest.approx(ratio_by_enumeration(arcs), rel=1e-9, abs=1e-12)


def test_arcs_without_delay_are_fine_off_cycles_and_refused_on_them() -> None:
    chain = [Arc(0, 1, 2.0, 0), Arc(1, 2, 3.0, 0), Arc(2, 0, 1.0, 2)]
    assert cycle_ratio(chain) == pytest.approx(3.0)
    assert cycle_ratio(chain[:2]) == 0.0
    with pytest.raises(PlanError, match="same step"):
        cycle_ratio([*chain, Arc(1, 0, 0.0, 0)])


def two_stages(first: float, second: float, hidden_bytes: int, result_bytes: int) -> Workload:
    values = (
        Value("sample", INPUT, result_bytes, (0,)),
        Value("hidden", 0, hidden_bytes, (1,)),
        Value("result", 1, result_bytes, (), returned=True),
    )
    return Workload({"default": (first, second)}, values)


@given(*[st.floats(0.1, 9.0)] * 2, st.integers(1, 40), st.integers(1, 40))
def test_two_devices_follow_the_closed_form(first: float, second: float, hidden: int, result: int) -> None:
    link = Link(0.25, 8.0)
    placement = Placement(two_stages(first, second, hidden, result), (0, 1), sampler=0)
    links, devices = LinkTable(link), equal_devices(2)
    found = period(placement, evaluate(placement, devices, links), links)
    waiting = (first + second + link.seconds(hidden) + link.seconds(result)) / 2
    assert found == pytest.approx(max(first, second, waiting, hidden / 8.0, result / 8.0))


def test_the_sampling_loop_takes_part_in_the_cycle() -> None:
    placement = Placement(two_stages(2.0, 2.0, 1, 1), (0, 1), sampler=0)
    links, devices = LinkTable(Link(0.0, 1e9)), equal_devices(2)
    loads = evaluate(placement, devices, links)
    assert period(placement, loads, links) == pytest.approx(2.0)
    assert period(placement, loads, links, sampler_seconds=1.0) == pytest.approx(3.0)  # it keeps device 0 busy
    alone = Placement(two_stages(2.0, 2.0, 1, 1), (0, 0), sampler=0)
    assert period(alone, evaluate(alone, devices, links), links, sampler_seconds=1.0) == pytest.approx(5.0)
