from typing import Any

import pytest
import torch
from torch import Tensor

from graphopt.errors import PreconditionError
from graphopt.scores import Batch, call_batch
from graphopt.scores.calibration import numbered_batches


def difference(x: Tensor, y: Tensor | float = 0.0) -> Tensor:
    return x - y


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.tensor([5.0]), 5.0),
        ((torch.tensor([5.0]), torch.tensor([2.0])), 3.0),
        ({"y": torch.tensor([5.0]), "x": torch.tensor([2.0])}, -3.0),
        (Batch(args=(torch.tensor([5.0]),), kwargs={"y": torch.tensor([1.0])}, target="label"), 4.0),
    ],
)
def test_a_batch_becomes_a_call(batch: Any, expected: float) -> None:
    assert call_batch(difference, batch).item() == expected


def test_a_list_is_no_batch_and_the_message_says_what_to_do() -> None:
    with pytest.raises(PreconditionError) as caught:
        call_batch(difference, [torch.ones(1), torch.ones(1)])
    assert str(caught.value).startswith("a calibration batch is a list, wanted a tensor, a tuple")
    assert str(caught.value).endswith("turn [input, label] into Batch(args=(input,), target=label)")


def test_a_number_is_no_batch() -> None:
    with pytest.raises(PreconditionError, match=r"a calibration batch is a int, wanted .* needs a target too$"):
        call_batch(difference, 3)


def test_batches_are_numbered() -> None:
    assert list(numbered_batches(["a", "b"], "a test")) == [(0, "a"), (1, "b")]


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "a test needs data and found none"),
        ([], "a test needs data and calibration is empty"),
        (torch.ones(2, 3), "calibration is one batch, a Tensor"),
        ({"x": torch.ones(2, 3)}, "calibration is one batch, a dict"),
        (Batch(), "calibration is one batch, a Batch"),
    ],
)
def test_calibration_without_batches_is_an_error(calibration: Any, message: str) -> None:
    with pytest.raises(PreconditionError, match=message):
        list(numbered_batches(calibration, "a test"))


def test_a_spent_generator_is_empty() -> None:
    batches = (number for number in range(3))
    assert len(list(numbered_batches(batches, "a test"))) == 3
    with pytest.raises(PreconditionError, match="a generator that was gone through once is empty"):
        list(numbered_batches(batches, "a test"))
