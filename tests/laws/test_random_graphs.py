"""The laws on random graphs of up to 60 operators, drawn from every coupling rule that has a sample."""

from collections import Counter
from collections.abc import Callable

import hypothesis
import pytest
from dependency.closure import unclosed, unexplained
from dependency.oracle import Oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.checks import captured, check
from laws.draft import Draft, Picks
from laws.graphs import MOST, NUMBERS, Graph, assembled, graphs
from laws.sampled import NAMES, apply_rule
from laws.structure import STEMS, STEPS

from graphopt.dependency.graph import DependencyGraph

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of operators that torch has newer ones for

FUZZ = settings().max_examples > 100
PARTS, GRAPHS = (8, settings().max_examples // 8) if FUZZ else (1, 25)
relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))

UNREACHED = {
    "aten.chunk.default": "its sample cuts the batch; the step cut cuts other dimensions",
    "aten.index.Tensor": "its sample puts the batch second; the step moved looks up along one dimension",
    "aten.narrow.default": "its sample cuts the batch; the step window cuts other dimensions",
    "aten.split.Tensor": "its sample cuts the batch; the step cut cuts other dimensions",
    "aten.tensor_split.indices": "its sample cuts the batch; the step cut cuts other dimensions",
    "aten.tensor_split.sections": "its sample cuts the batch; the step cut cuts other dimensions",
}
"""Rules whose samples end without a batch in front, so that no further operator fits."""

ONE_AXIS = ("cat", "combine", "cut", "linear", "residual", "shuffle", "window")
"""Steps after which a value still has one axis that can go, which is all that the oracle of single indices follows."""
TOKENS, VECTOR = STEMS.index((4, 6)), STEMS.index((6,))


@pytest.mark.hypothesis
@pytest.mark.parametrize("part", range(PARTS))
def test_laws_hold_on_random_graphs(part: int, record_property: Callable[[str, object], None]) -> None:
    drawn: Counter[str] = Counter()
    seen = []

    @(lambda run: run if FUZZ else hypothesis.seed(part)(run))
    @settings(relaxed, max_examples=GRAPHS)
    @given(graph=graphs(), seed=st.integers(0, 1000))
    def run(graph: Graph, seed: int) -> None:
        drawn.update(graph.drawn)
        seen.append(check(graph, seed, fresh=seed % 3 == 0, most=1))

    run()
    record_property("random_graphs", len(seen))
    record_property("rules", NAMES)
    record_property("rules_drawn", sorted(drawn))
    assert len(seen) >= GRAPHS
    assert sum(entry.axes for entry in seen) > GRAPHS
    assert sum(entry.dynamic for entry in seen) > 0.9 * GRAPHS  # torch.export fixes the batch of a few


@settings(relaxed, max_examples=settings().max_examples)
@given(
    steps=st.lists(st.tuples(st.sampled_from(ONE_AXIS), NUMBERS), min_size=1, max_size=8),
    stem=st.sampled_from((VECTOR, TOKENS)),
)
def test_small_graphs_agree_with_single_indices(steps: list[tuple[str, list[int]]], stem: int) -> None:
    program = captured(assembled(steps, 12, stem))
    graph, oracle = DependencyGraph(program), Oracle(program)
    assert unclosed(graph, oracle) == []
    assert unexplained(graph, oracle) == []


@pytest.mark.parametrize("target", NAMES)
def test_every_rule_is_reached(target: str) -> None:
    made = []
    for number in range(len(STEMS)):
        draft = Draft()
        STEPS["stem"](draft, Picks([number, 1]))
        made += apply_rule(draft, target, Picks([0]))
    assert bool(made) != (target in UNREACHED)


def test_every_step_is_reached() -> None:
    for name, step in STEPS.items():
        draft = Draft()
        STEPS["stem"](draft, Picks([4]))
        STEPS["stem"](draft, Picks([1]))
        STEPS["stem"](draft, Picks([0]))
        STEPS["window"](draft, Picks([1, 1, 2]))
        assert any(step(draft, Picks([number] * 6)) for number in range(4)), name


def test_a_graph_has_up_to_60_operators_and_reaches_every_value() -> None:
    graph = assembled([("linear", [0, 0]), ("aten.relu.default", [1])] * MOST)
    assert graph.source.count("\n        v") == MOST
    assert len(captured(graph).graph_module.graph.find_nodes(op="placeholder")) == 1
