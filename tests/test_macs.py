import pytest
import torch
from torch import fx

from graphopt.macs import node_macs

aten = torch.ops.aten


def macs(target, *shapes: tuple[int, ...], output: tuple[int, ...], literals: tuple = ()) -> int:
    """Return the count for an operator whose arguments are the literals and then operands of those shapes."""
    graph = fx.Graph()
    operands = tuple(graph.placeholder(f"x{place}") for place in range(len(shapes)))
    return node_macs(graph.call_function(target, (*literals, *operands)), list(shapes), output)


@pytest.mark.parametrize(
    ("target", "shapes", "output", "count"),
    [
        (aten.linear.default, [(2, 7, 8), (5, 8), (5,)], (2, 7, 5), 2 * 7 * 8 * 5),
        (aten.mm.default, [(3, 4), (4, 5)], (3, 5), 3 * 4 * 5),
        (aten.bmm.default, [(2, 3, 4), (2, 4, 5)], (2, 3, 5), 2 * 3 * 4 * 5),
        (aten.matmul.default, [(6, 2, 3, 4), (4, 5)], (6, 2, 3, 5), 6 * 2 * 3 * 4 * 5),
        (aten.matmul.default, [(4,), (4, 5)], (5,), 4 * 5),
        (aten.matmul.default, [(4,), (4,)], (), 4),
        (aten.addmm.default, [(5,), (3, 4), (4, 5)], (3, 5), 3 * 4 * 5),
        (aten.baddbmm.default, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], (2, 3, 5), 2 * 3 * 4 * 5),
        (aten.addbmm.default, [(3, 5), (2, 3, 4), (2, 4, 5)], (3, 5), 2 * 3 * 4 * 5),
        (aten.outer.default, [(3,), (4,)], (3, 4), 12),
        (aten.linalg_matmul.default, [(3, 4), (4, 5)], (3, 5), 3 * 4 * 5),
        (aten.lstm_cell.default, [(2, 3), (2, 4), (2, 4), (16, 3), (16, 4), (16,), (16,)], (2, 4), 2 * 16 * (3 + 4)),
        (aten.gru_cell.default, [(2, 3), (2, 4), (12, 3), (12, 4), (12,), (12,)], (2, 4), 2 * 12 * (3 + 4)),
        (aten.bilinear.default, [(2, 3), (2, 4), (5, 3, 4)], (2, 5), 2 * 5 * 3 * 4),
        (aten.conv1d.default, [(2, 4, 9), (6, 4, 3)], (2, 6, 7), 2 * 6 * 7 * 4 * 3),
        (aten.conv2d.default, [(2, 4, 9, 9), (6, 2, 3, 3)], (2, 6, 7, 7), 2 * 6 * 49 * 2 * 9),
        (aten.conv2d.padding, [(2, 4, 9, 9), (4, 1, 3, 3)], (2, 4, 9, 9), 2 * 4 * 81 * 9),
        (aten.conv3d.default, [(1, 2, 4, 4, 4), (3, 2, 1, 2, 2)], (1, 3, 4, 3, 3), 3 * 36 * 2 * 4),
        (aten.conv_transpose2d.input, [(2, 6, 5, 5), (6, 2, 3, 3)], (2, 4, 7, 7), 2 * 6 * 25 * 2 * 9),
        (
            aten.scaled_dot_product_attention.default,
            [(2, 8, 5, 16), (2, 2, 7, 16), (2, 2, 7, 12)],
            (2, 8, 5, 12),
            2 * 8 * 5 * 7 * (16 + 12),
        ),
        (aten.cdist.default, [(3, 4), (5, 4)], (3, 5), 60),
        (aten.add.Tensor, [(3, 4), (3, 4)], (3, 4), 0),
        (aten.softmax.int, [(3, 4)], (3, 4), 0),
        (aten.embedding.default, [(10, 4), (3,)], (3, 4), 0),
    ],
)
def test_formulas(target, shapes, output: tuple[int, ...], count: int) -> None:
    assert macs(target, *shapes, output=output) == count


@pytest.mark.parametrize(
    ("equation", "shapes", "output", "count"),
    [
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)], (2, 3, 4, 6), 2 * 3 * 4 * 6 * 5),
        ("...i, ij -> ...j", [(2, 7, 3), (3, 4)], (2, 7, 4), 2 * 7 * 3 * 4),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], (2, 5), 2 * 3 * 4 + 2 * 4 * 5),
        ("bi,bi->b", [(2, 3), (1, 3)], (2,), 6),
        ("ij,jk", [(2, 3), (3, 4)], (2, 4), 24),
        ("ij->ji", [(2, 3)], (3, 2), 0),
    ],
)
def test_einsum(equation: str, shapes, output: tuple[int, ...], count: int) -> None:
    assert macs(aten.einsum.default, *shapes, output=output, literals=(equation,)) == count


def test_recurrent_layers_count_every_matrix_once_a_step() -> None:
    weights = [(64, 8), (64, 16), (64,), (64,), (64, 16), (64, 16), (64,), (64,)]
    states = [(2, 3, 16), (2, 3, 16)]
    count = macs(aten.lstm.input, (3, 5, 8), *states, *weights, output=(3, 5, 16))
    assert count == 3 * 5 * (64 * 8 + 3 * 64 * 16)
    gates = [(48, 8), (48, 16), (48,), (48,)]
    assert macs(aten.gru.input, (3, 5, 8), (1, 3, 16), *gates, output=(3, 5, 16)) == 3 * 5 * (48 * 8 + 48 * 16)


def test_a_sum_over_pairs_of_dimensions() -> None:
    graph = fx.Graph()
    left, right = graph.placeholder("left"), graph.placeholder("right")
    node = graph.call_function(aten.tensordot.default, (left, right, [1, 2], [0, 1]))
    assert node_macs(node, [(5, 3, 4), (3, 4, 6)], (5, 6)) == 5 * 6 * 12
