import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from graphopt.batch import SPREAD, Batch, UnjoinableError
from graphopt.evaluation import Evaluator


def tensors(evaluator: Evaluator, *sizes: int) -> torch.Tensor:
    return evaluator.stand_in(torch.empty(sizes))


def test_sizes_that_differ_become_multiples_of_one_symbol() -> None:
    batch, evaluator = Batch.new(2), Evaluator()
    joined = batch.join(tensors(evaluator, 4, 3, 2), tensors(evaluator, 4 * SPREAD, 3, 2))
    assert isinstance(joined, FakeTensor)
    assert str(joined.shape[0].node.expr) == f"2*{batch.multiple(1).node.expr}"
    assert (joined.shape[0].node.hint, joined.shape[1], joined.shape[2]) == (4, 3, 2)
    assert joined.stride() == (6, 2, 1)
    assert batch.join([1, 6], [1, 6 * SPREAD]) == [1, 3 * batch.multiple(1)]


@pytest.mark.parametrize(("low", "high"), [(3, 9), (3, 7), (2, 3), (0, 6), (1, 3)])
def test_sizes_that_are_no_multiples_are_refused(low: int, high: int) -> None:
    with pytest.raises(UnjoinableError, match=f"a size is {low} at batch 2 and {high} at batch 6"):
        Batch.new(2).join(low, high)


def test_other_differences_are_refused() -> None:
    batch, evaluator = Batch.new(2), Evaluator()
    with pytest.raises(UnjoinableError):
        batch.join(0.5, 0.25)
    with pytest.raises(UnjoinableError):
        batch.join(tensors(evaluator, 2, 3), tensors(evaluator, 6, 3, 1))


def test_split_is_the_way_back() -> None:
    batch, evaluator = Batch.new(2), Evaluator()
    low, high = tensors(evaluator, 2, 3), tensors(evaluator, 2 * SPREAD, 3)
    joined = batch.join(low, high)
    again = Batch.of_size(batch.mode, joined.shape[0])
    first, second = again.split(evaluator, joined)
    assert (tuple(first.shape), tuple(second.shape)) == ((2, 3), (2 * SPREAD, 3))
    view = joined.transpose(0, 1)
    other = again.split(evaluator, view)[0]
    assert other.untyped_storage()._cdata == first.untyped_storage()._cdata
    back = again.join(other, again.split(evaluator, view)[1])
    assert back.untyped_storage()._cdata == joined.untyped_storage()._cdata
    assert (back.stride(), str(back.shape[1])) == (view.stride(), str(view.shape[1]))


def test_a_value_begins_behind_so_many_elements_a_row_and_some_more() -> None:
    batch, evaluator = Batch.new(2), Evaluator()
    low, high = tensors(evaluator, 5, 2, 3)[2, :, 1:], tensors(evaluator, 5, 2 * SPREAD, 3)[2, :, 1:]
    joined = batch.join(low, high)
    assert str(joined.storage_offset()) == str(6 * batch.multiple(1) + 1)
    first, second = Batch.of_size(batch.mode, joined.shape[0]).split(evaluator, joined)
    assert (first.storage_offset(), second.storage_offset()) == (13, 37)
    assert batch.place(7, 7) == 7
    for places in ((4, 36), (3, 4), (9, 5)):
        with pytest.raises(UnjoinableError, match="a value begins at"):
            batch.place(*places)


def test_a_size_of_another_form_is_no_batch() -> None:
    batch = Batch.new(2)
    with pytest.raises(UnjoinableError, match="wanted a multiple of the batch"):
        Batch.of_size(batch.mode, batch.multiple(1) + 1)
    assert Batch.of_size(batch.mode, batch.multiple(4)).low == 2
    assert str(Batch.of_size(batch.mode, batch.multiple(4)).multiple(1)) == str(batch.multiple(1))
