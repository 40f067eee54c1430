import pytest
import torch
from torch import fx

from graphopt.assumptions import Answer, Assumptions, repeated
from graphopt.errors import GraphoptError

LINE = "model.py:3: n = int(mask.sum())"


def test_numbers_agree_by_value_or_by_so_many_times_the_batch() -> None:
    assert Answer(7, None, LINE).agrees(7, 5)
    assert not Answer(7, None, LINE).agrees(8, 5)
    assert Answer(12, 6, LINE).agrees(torch.tensor(30), 5)
    assert not Answer(12, 6, LINE).agrees(12, 5)
    assert Answer(12, 6, LINE).agrees(12, None)


def test_tensors_agree_row_by_row_with_the_example_again_and_again() -> None:
    answer = Answer(torch.tensor([3, 4]), None, LINE)
    assert answer.agrees(torch.tensor([3, 4, 3, 4]), 4)
    assert answer.agrees(torch.tensor([3]), 1)
    assert not answer.agrees(torch.tensor([4, 3]), 2)
    assert not answer.agrees(torch.tensor([[3, 4]]), 2)
    assert not answer.agrees(3, 2)
    assert repeated(torch.tensor([[1], [2]]), 3).tolist() == [[1], [2], [1]]
    assert repeated(torch.zeros(0, 2), 3).shape == (0, 2)


def test_answers_are_shown_shortly() -> None:
    assert str(Answer(12, 6, LINE)) == "6 times the batch"
    assert str(Answer(2, 1, LINE)) == "the batch"
    assert str(Answer(torch.tensor([6, 6]), None, LINE)) == "[6, 6]"
    assert str(Answer(torch.arange(100), None, LINE)).endswith(" ...")


def assumptions(*answers: Answer) -> Assumptions:
    graph = fx.Graph()
    mask = graph.placeholder("mask")
    total = graph.call_function(torch.ops.aten.sum.default, (mask,))
    graph.output((total,) * len(answers))
    return Assumptions(fx.GraphModule({}, graph), answers, (1,), ("mask",), 0)


def test_one_note_a_line() -> None:
    same = assumptions(*(Answer(value, None, LINE) for value in (1, 2, 2, 3, 4, 5)))
    (note,) = same.notes()
    assert note == (
        f"the inputs' data decide at {LINE}: this holds where that gives 1, 2, 3, 4 and 1 more; programs and "
        "modules raise an error elsewhere, files of other forms ask nothing"
    )


def test_a_check_names_what_was_found_and_what_was_wanted() -> None:
    taken = assumptions(Answer(4, 2, LINE))
    taken.check({"mask": torch.ones(5, 2), "other": None})
    with pytest.raises(GraphoptError) as caught:
        taken.check({"mask": torch.zeros(5, 2)})
    assert str(caught.value) == (
        f"the inputs' data give 0.0 at {LINE}, and the program was captured where they give 2 times the batch: the "
        "code goes on in another way; capture with inputs like these"
    )


def test_nothing_is_asked_without_the_input_or_its_data() -> None:
    taken = assumptions(Answer(4, None, LINE))
    taken.check({"other": torch.zeros(1)})
    taken.check({"mask": torch.zeros(1, device="meta")})
