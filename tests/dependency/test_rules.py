"""Every coupling rule is proved on its own sample, and every one of its ties is needed; or it freezes everything."""

import pytest
import torch
from torch import Tensor, fx, nn

from graphopt.dependency.axes import Algebra
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.registry import Sample, coupling_rule, find_rule, rule_table
from graphopt.dependency.terms import Dim, leaves
from graphopt.dependency.ties import Facts, Output, Ties
from graphopt.errors import RegistrationError
from graphopt.known import names_of
from graphopt.proof.comparison import TOLERANCE
from graphopt.proof.samples import (
    BATCH,
    FEATURES,
    SampleModule,
    prove_groups,
    prove_rule,
    sample_program,
    unneeded_ties,
)
from graphopt.tracing import capture
from graphopt.wiring import walk

pytestmark = pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")

PROVED = sorted(name for name, rule in rule_table().items() if rule.sample is not None)
FREEZING = sorted(name for name, rule in rule_table().items() if rule.freezes)
OF_CAPTURES = {"graphopt.opaque.default"}
"""Operators that only a capture can call: `tests/test_whole_parts.py` asks for their reasons."""


def test_every_rule_has_a_sample_or_freezes() -> None:
    assert sorted(PROVED + FREEZING) == sorted(rule_table())


def test_a_rule_that_freezes_takes_no_sample() -> None:
    with pytest.raises(RegistrationError, match=r"demo\.frozen\.default freezes everything"):
        coupling_rule("demo.frozen.default", sample=Sample(torch.relu), freezes=True)
    assert "demo.frozen.default" not in rule_table()


@pytest.mark.parametrize("target", PROVED)
def test_the_sample_calls_the_operator(target: str) -> None:
    rule = rule_table()[target]
    assert any(find_rule(node.target) is rule for node in walk(sample_program(rule).graph_module))


@pytest.mark.parametrize("target", PROVED)
def test_mask_equals_slice_on_the_sample(target: str) -> None:
    proofs = prove_rule(rule_table()[target])
    assert proofs
    assert all(proof.holds for proof in proofs)


@pytest.mark.parametrize("target", PROVED)
def test_every_tie_is_needed(target: str) -> None:
    assert unneeded_ties(rule_table()[target]) == []


class Summed(SampleModule):
    """A sample whose outputs are summed: where they are not zero by themselves, what is removed would be counted."""

    def __init__(self, sample: Sample) -> None:
        super().__init__(sample)
        self.consumers = nn.ParameterList()

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        """``value: (batch, FEATURES)``; one ``(batch,)`` tensor for each output of the operator."""
        return tuple(out.flatten(1).float().sum(1) for out in self._outputs(value))


@pytest.mark.parametrize("target", [name for name in PROVED if rule_table()[name].zeros != "none"])
def test_zeros_travel_as_the_rule_says(target: str) -> None:
    sample = rule_table()[target].sample
    assert sample is not None
    torch.manual_seed(0)
    graph = DependencyGraph(capture(Summed(sample), (torch.randn(BATCH, FEATURES),)))
    errors = [comparison.error for proof in prove_groups(graph) for comparison in proof.comparisons]
    assert errors
    assert max(errors) < TOLERANCE


SIZE = 4


def operator_of(target: str) -> torch._ops.OpOverload:
    """The operator that a rule is for; of some names there is an in-place operator only."""
    namespace, name, overload = target.split(".")
    packets = (getattr(getattr(torch.ops, namespace), one, None) for one in (name, f"{name}_"))
    found = [getattr(packet, overload) for packet in packets if packet and overload in packet.overloads()]
    assert target in names_of(found[0])
    return found[0]


def fake_call(target: str, algebra: Algebra, facts: Facts) -> fx.Node:
    """A call in which every operand and result is a square of free dimensions."""
    operator, graph = operator_of(target), fx.Graph()

    def square() -> fx.Node:
        node = graph.placeholder("operand")
        node.meta["val"] = torch.empty(SIZE, SIZE)
        facts.dims[node] = [algebra.fresh(SIZE), algebra.fresh(SIZE)]
        return node

    kinds = [str(argument.type) for argument in operator._schema.arguments]
    args = [[square(), square()] if "List[Tensor]" in kind else square() if "Tensor" in kind else 1 for kind in kinds]
    call = graph.call_function(operator, tuple(args))
    results = [torch.empty(SIZE, SIZE) for _ in operator._schema.returns]
    call.meta["val"] = results[0] if len(results) == 1 else results
    return call


def every_dim(output: Output) -> list[Dim]:
    """The dimensions in a nest of outputs."""
    items = list(output or ())
    return [dim for item in items for dim in (every_dim(item) if isinstance(item, list) else [item])]


@pytest.mark.parametrize("target", [name for name in FREEZING if name not in OF_CAPTURES])
def test_nothing_is_left_free_by_a_rule_that_freezes(target: str) -> None:
    algebra, facts = Algebra(), Facts()
    call = fake_call(target, algebra, facts)
    result = rule_table()[target].state(Ties(call, algebra, facts))
    dims = [algebra.resolve(dim) for dim in (*every_dim(list(facts.dims.values())), *every_dim(result))]
    assert len(dims) == 2 * (len(call.all_input_nodes) + len(call.target._schema.returns))
    for leaf in leaves(tuple(factor for dim in dims for factor in dim)):
        assert leaf.frozen is not None
        assert leaf.frozen.text
        assert leaf.frozen.operator == str(call.target)


def test_dropout_that_draws_freezes() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.leave(nn.functional.dropout(self.enter(x), 0.5, training=True))
            return out

    graph = DependencyGraph(capture(Drawing(), (torch.randn(3, 5),)))
    assert graph.groups == ()
    assert "random numbers are drawn along it" in graph.explain("enter.weight", 0)
