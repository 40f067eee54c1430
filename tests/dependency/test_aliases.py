"""Other names of operators need no rule: capture writes them in operators that have one, and no axis is lost."""

import pytest
import torch
from torch import Tensor

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.registry import Sample, rule_table
from graphopt.proof.samples import BATCH, FEATURES, SampleModule, prove_groups
from graphopt.tracing import capture

aten = torch.ops.aten


def grids(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    rows, columns = aten.meshgrid.default([first, second])
    return x * rows + columns


ALIASES: dict[str, tuple[Sample, list[int]]] = {
    "_unsafe_view.default": (Sample(lambda x: aten._unsafe_view.default(x, [-1, 3, 4]), ((12,),)), [3, 4]),
    "adjoint.default": (Sample(aten.adjoint.default, ((3, 4),)), [3, 4]),
    "alias.default": (Sample(aten.alias.default), [6]),
    "broadcast_to.default": (Sample(lambda x: aten.broadcast_to.default(x.unsqueeze(1), [-1, 4, 6])), [6]),
    "concat.default": (Sample(lambda x, y: aten.concat.default([x, y], 1), ((4, 5), (6, 5))), [4, 5, 6]),
    "concatenate.default": (Sample(lambda x, y: aten.concatenate.default([x, y], 1), ((4, 5), (6, 5))), [4, 5, 6]),
    "lift_fresh.default": (Sample(aten.lift_fresh.default), [6]),
    "mT.default": (Sample(aten.mT.default, ((3, 4),)), [3, 4]),
    "matrix_H.default": (
        Sample(lambda x, weight: x @ aten.matrix_H.default(weight), ((6,),), {"weight": (8, 6)}),
        [6, 8],
    ),
    "meshgrid.default": (Sample(grids, ((6, 4),), {"first": (6,), "second": (4,)}), [4, 6]),
    "movedim.int": (Sample(lambda x: aten.movedim.int(x, 1, 3), ((3, 4, 5),)), [3, 4, 5]),
    "numpy_T.default": (
        Sample(lambda x, weight: x @ aten.numpy_T.default(weight), ((6,),), {"weight": (8, 6)}),
        [6, 8],
    ),
    "ravel.default": (Sample(lambda x, weight: x * aten.ravel.default(weight), ((12,),), {"weight": (3, 4)}), [3, 4]),
    "reshape_as.default": (Sample(lambda x, y: aten.reshape_as.default(x, y) + y, ((12,), (3, 4))), [3, 4]),
    "squeeze.default": (Sample(lambda x: aten.squeeze.default(x.unsqueeze(1))), [6]),
    "swapaxes.default": (Sample(lambda x: aten.swapaxes.default(x, -1, -2), ((3, 4),)), [3, 4]),
    "tile.default": (Sample(lambda x: aten.tile.default(x, [1, 2, 1]), ((4, 5),)), [4, 5]),
    "type_as.default": (Sample(lambda x, y: aten.type_as.default(x, y.double()), ((4,), (6,))), [4]),
    "view.default": (Sample(lambda x: aten.view.default(x, [-1, 3, 4]), ((12,),)), [3, 4]),
    "view_as.default": (Sample(lambda x, y: aten.view_as.default(x, y), ((12,), (3, 4))), [3, 4]),
}


@pytest.mark.parametrize("name", ALIASES)
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_aliases_are_as_free_as_what_they_stand_for(name: str) -> None:
    sample, sizes = ALIASES[name]
    torch.manual_seed(0)
    program = capture(SampleModule(sample), (torch.randn(BATCH, FEATURES),))
    assert f"aten.{name}" not in rule_table()
    assert f"aten.{name}" not in {str(node.target) for node in program.nodes()}
    graph = DependencyGraph(program)
    assert graph.analysis.failures == {}
    assert all(proof.holds for proof in prove_groups(graph))
    assert sorted(group.size for group in graph.groups) == sizes
