from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scores.models import group, member

from graphopt.errors import PreconditionError
from graphopt.scores import Evidence, Gradients
from graphopt.scores.evidence import SLAB_ELEMENTS, Slab, boxes
from graphopt.scores.importance import absolute_first_order, first_order, fisher_curvature, squared_weight


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.integers(1, 50))
def test_boxes_cover_a_shape_once(shape: tuple[int, ...], limit: int) -> None:
    covered = torch.zeros(shape)
    for box in boxes(shape, limit):
        assert covered[box].numel() <= limit
        covered[box] += 1
    assert torch.equal(covered, torch.ones(shape))


def test_one_box_where_all_fits() -> None:
    assert list(boxes((4, 5), 20)) == [(slice(0, 4), slice(0, 5))]
    assert list(boxes((0, 5), 20)) == [(slice(0, 0), slice(0, 5))]


def evidence_of(weight: torch.Tensor) -> Evidence:
    gradient = torch.randn_like(weight, dtype=torch.float32)
    return Evidence({"w": weight}, Gradients({"w": gradient}, {"w": gradient.square()}, (1.0,), ()))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_vector_is_the_sum_over_all_other_dimensions(dim: int, dtype: torch.dtype) -> None:
    weight = torch.randn(7, 5, 3).to(dtype)
    evidence = evidence_of(weight)
    others = [other for other in range(3) if other != dim]
    gradient = evidence.gradients.sums["w"].double()
    for element, expected in (
        (squared_weight, weight.double().square()),
        (first_order, weight.double() * gradient),
        (absolute_first_order, (weight.double() * gradient).abs()),
        (fisher_curvature, weight.double().square() * gradient.square()),
    ):
        torch.testing.assert_close(evidence.vector("w", dim, element), expected.sum(others), rtol=1e-7, atol=1e-9)


def test_a_tensor_larger_than_a_slab_gives_the_same_vector_in_parts() -> None:
    weight = torch.randn(3, SLAB_ELEMENTS // 2 + 1)
    largest = []

    def counted(slab: Slab) -> torch.Tensor:
        largest.append(slab.weight.numel())
        return squared_weight(slab)

    evidence = Evidence({"w": weight})
    torch.testing.assert_close(evidence.vector("w", 0, counted), weight.double().square().sum(1))
    torch.testing.assert_close(evidence.vector("w", 1, counted), weight.double().square().sum(0))
    assert max(largest) <= SLAB_ELEMENTS
    assert sum(largest) == weight.numel()  # both dimensions in one walk


def test_a_tensor_is_walked_once_for_all_groups() -> None:
    calls = []

    def counted(slab: Slab) -> torch.Tensor:
        calls.append(slab)
        return slab.weight

    evidence = Evidence({"w": torch.arange(12.0).reshape(6, 2)})
    heads = group("heads", 3, member("w", 0, 3, repeat=2))
    rows = group("rows", 6, member("w", 0, 6))
    assert evidence.total(heads, counted).tolist() == [6.0, 22.0, 38.0]
    assert evidence.total(rows, counted).tolist() == [1.0, 5.0, 9.0, 13.0, 17.0, 21.0]
    assert len(calls) == 1
    assert evidence.total(group("columns", 2, member("w", 1, 2)), counted).tolist() == [30.0, 36.0]
    assert len(calls) == 1


def test_absolute_value_is_taken_of_each_flat_index() -> None:
    evidence = Evidence({"w": torch.tensor([[1.0, -3.0], [2.0, 2.0], [-1.0, 0.0], [5.0, -5.0]])})
    heads = group("heads", 2, member("w", 0, 2, repeat=2))
    # Rows sum to -2, 4, -1 and 0.
    assert evidence.total(heads, weight_itself).tolist() == [2.0, -1.0]
    assert evidence.total(heads, weight_itself, absolute=True).tolist() == [6.0, 1.0]


def weight_itself(slab: Slab) -> torch.Tensor:
    return slab.weight


def test_members_outside_the_scored_tensors_count_nothing() -> None:
    evidence = Evidence({"w": torch.ones(2, 3)})
    both = group("g", 2, member("w", 0, 2), member("running_mean", 0, 2))
    assert evidence.total(both, squared_weight).tolist() == [3.0, 3.0]
    assert [found.tensor for found in evidence.members(both)] == ["w"]
    assert evidence.total(both, squared_weight, among={"other"}).tolist() == [0.0, 0.0]


def test_scores_build_no_graph() -> None:
    evidence = Evidence({"w": torch.nn.Parameter(torch.ones(2, 3))})
    assert not evidence.total(group("g", 2, member("w", 0, 2)), squared_weight).requires_grad


def test_what_is_not_finite_is_named() -> None:
    rows = group("g", 2, member("w", 0, 2))
    weight = torch.tensor([[1.0, float("nan")], [1.0, 1.0]])
    with pytest.raises(PreconditionError, match="parameter w holds NaN or infinity in 1 of 4 elements"):
        Evidence({"w": weight}).total(rows, squared_weight)
    gradients = Gradients({"w": torch.tensor([[1.0, float("inf")], [1.0, float("nan")]])}, {}, (), ())
    with pytest.raises(PreconditionError, match="gradient of w holds NaN or infinity in 2 of 4 elements"):
        Evidence({"w": torch.ones(2, 2)}, gradients).total(rows, first_order)
    with pytest.raises(PreconditionError, match="the score of parameter w overflows float64"):
        Evidence({"w": torch.full((2, 2), 1e200, dtype=torch.float64)}).total(rows, squared_weight)


def test_a_gradient_that_was_not_collected_is_an_error() -> None:
    rows = group("g", 2, member("w", 0, 2))
    with pytest.raises(PreconditionError, match="found no gradient of w; collect_gradients gives it"):
        Evidence({"w": torch.ones(2, 2)}).total(rows, first_order)
    only_sums = Gradients({"w": torch.ones(2, 2)}, {}, (), ())
    with pytest.raises(PreconditionError, match="found no squared gradient of w"):
        Evidence({"w": torch.ones(2, 2)}, only_sums).total(rows, fisher_curvature)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_units_share_out_what_the_members_hold(size: int, repeat: int, columns: int, offset: int) -> None:
    weight = torch.arange(1.0, 1 + (offset + size * repeat) * columns).reshape(-1, columns)
    units = group("g", size, member("w", 0, size, repeat=repeat, offset=offset))
    expected = weight[offset:].double().square().reshape(size, -1).sum(1)
    found = Evidence({"w": weight}).total(units, squared_weight)
    torch.testing.assert_close(found, expected)
    assert prod(found.shape) == size
