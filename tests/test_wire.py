"""How tensors lie when they are handed on, and what stands for those that are late."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.wire import MOST_GAPS, extrapolated, handed, kept_strides, packed, stride_order


def order_of(tensor: torch.Tensor) -> list[int]:
    """Dimensions of more than one index by falling stride; the strides of others say nothing."""
    return [dim for dim in stride_order(tensor.stride()) if tensor.shape[dim] > 1 and tensor.numel()]


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    data=st.data(),
)
def test_packing_keeps_numbers_and_the_order_of_strides(shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape).permute(order)
    whole = packed(tensor)
    assert torch.equal(whole, tensor)
    assert order_of(whole) == order_of(tensor)
    assert whole.permute(stride_order(whole.stride())).is_contiguous()


@pytest.mark.parametrize(
    ("tensor", "stride"),
    [
        (torch.arange(12.0).reshape(3, 4)[:, ::2], (2, 1)),
        (torch.arange(12.0).reshape(3, 4).t()[::2], (1, 2)),
        (torch.arange(3.0)[:, None].expand(3, 4), (4, 1)),
        (torch.arange(4.0).expand(3, 4), (1, 3)),
        (torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), (48, 1, 12, 3)),
        (torch.tensor(1.0), ()),
    ],
)
def test_packing_by_hand(tensor: torch.Tensor, stride: tuple[int, ...]) -> None:
    assert packed(tensor).stride() == stride
    assert torch.equal(packed(tensor), tensor)


def test_what_is_handed_on_has_memory_of_its_own() -> None:
    for tensor in (torch.randn(2, 3, 4).permute(2, 0, 1), torch.arange(12.0).reshape(3, 4)[:, 1:3]):
        found = handed(tensor)
        assert found.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
        assert found.storage_offset() == 0
        assert found.stride() == tensor.stride()
        assert torch.equal(found, tensor)


@pytest.mark.parametrize(
    ("tensor", "stride"),
    [
        (torch.randn(1, 8, 5)[:, :4], (20, 5, 1)),
        (torch.randn(8, 4)[3:4], (4, 1)),
        (torch.randn(2, 2, 3)[:, 0], (6, 1)),
        (torch.randn(9, 2 * MOST_GAPS)[:, 0], (1,)),
        (torch.randn(3, 1).expand(3, 4), (4, 1)),
        (torch.arange(6.0).as_strided((2, 3), (1, 1)), (3, 1)),
        (torch.randn(0, 4), (4, 1)),
    ],
)
def test_strides_of_what_is_handed_on(tensor: torch.Tensor, stride: tuple[int, ...]) -> None:
    assert kept_strides(tensor) == stride
    assert kept_strides(handed(tensor)) == stride
    assert torch.equal(handed(tensor), tensor)


def test_the_order_of_equal_strides_is_that_of_the_dimensions() -> None:
    assert stride_order((4, 1, 1)) == (0, 1, 2)
    assert stride_order((1, 4, 4)) == (1, 2, 0)
    assert stride_order(()) == ()


def test_extrapolation_by_hand() -> None:
    latest, earlier = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 6.0])
    assert extrapolated(latest, earlier, 1.0).tolist() == [5.0, 4.0]
    assert extrapolated(latest, earlier, 0.5).tolist() == [4.0, 4.5]
    assert extrapolated(latest, earlier, 0.0) is latest
    assert extrapolated(latest, None, 1.0) is latest
