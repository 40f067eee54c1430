"""What a rule calls a contraction of two operands has a formula for its multiply-accumulates."""

import pytest

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.registry import rule_table
from graphopt.macs import FORMULAS, operator_name
from graphopt.proof.samples import sample_program

pytestmark = pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")

PROVED = sorted(name for name, rule in rule_table().items() if rule.sample is not None)


@pytest.mark.parametrize("target", PROVED)
def test_products_are_counted(target: str) -> None:
    program = sample_program(rule_table()[target])
    for node in DependencyGraph(program).analysis.facts.contractions:
        operands = [item for item in node.all_input_nodes if item.meta["val"].ndim]
        assert len(operands) < 2 or operator_name(node) in FORMULAS
