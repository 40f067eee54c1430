import inspect

import pytest
import torch
from torch import nn

from graphopt.errors import CaptureError
from graphopt.example_inputs import ExampleInputs, bind, is_weightless, with_plain_signature, without_weights


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, *more, scale=1, **rest):
        return self.linear(x) * scale + sum(more) + rest.get("extra", 0)


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(2, 3), (2,), (5, 3)], 2),
        ([(1, 8), (16, 3), (5, 3), (1, 8), (1,)], 1),
        ([(3, 4), (5, 4)], 3),
        ([(), ()], None),
        ([], None),
    ],
)
def test_batch_is_the_commonest_first_size(shapes, size: int | None) -> None:
    nested = {"rest": [torch.zeros(shape) for shape in shapes[1:]], "flag": True, "none": None}
    assert ExampleInputs(tuple(torch.zeros(shape) for shape in shapes[:1]), nested).batch_size() == size


def test_widening_repeats_what_carries_the_batch_and_keeps_identity() -> None:
    x, table = torch.arange(3.0).reshape(1, 3), torch.zeros(5, 3)
    wide = ExampleInputs((x, table), {"again": x, "number": 7}).widened(1)
    assert torch.equal(wide.args[0], x.repeat(2, 1))
    assert wide.args[0] is wide.kwargs["again"]
    assert wide.args[1].shape == (5, 3)
    assert wide.kwargs["number"] == 7


def test_stand_in_names_keyword_inputs_and_shares_everything() -> None:
    model, x = Keywords(), torch.randn(2, 4)
    inputs = bind(model, (x, x), {"extra": x, "scale": 2})
    stand_in = with_plain_signature(model, inputs)
    assert str(inspect.signature(stand_in.forward)) == "(x, *more, extra, scale)"
    assert stand_in.linear is model.linear
    assert torch.equal(stand_in(x, x, extra=x, scale=2), model(x, x, extra=x, scale=2))
    assert "forward" not in model.__dict__
    plain = nn.Linear(4, 4)
    assert with_plain_signature(plain, bind(plain, (x,), {})) is plain


def test_bind_names_what_does_not_fit() -> None:
    with pytest.raises(
        CaptureError, match=r"Linear\.forward takes \(.* was given 2 positional inputs and keywords \[\]: too"
    ):
        bind(nn.Linear(4, 4), (1, 2), {})


def test_weightless_models_and_their_inputs() -> None:
    with torch.device("meta"):
        model = nn.BatchNorm1d(4)
    inputs = ExampleInputs((torch.ones(2, 4),), {})
    same, moved = without_weights(model, inputs)
    assert same is model
    assert moved.args[0].is_meta
    model.running_mean = torch.zeros(4)
    copied, _ = without_weights(model, inputs)
    assert copied is not model
    assert copied.running_mean.is_meta
    assert not is_weightless(nn.ReLU())
    assert without_weights(nn.Linear(2, 2), inputs)[1] is inputs
