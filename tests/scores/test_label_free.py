import pytest
import torch
from scores.models import Context, Net, images, program_of
from torch import Tensor, nn
from torch.nn import functional as F

from graphopt.errors import PreconditionError
from graphopt.scores import collect_gradients, disturbed_self_loss


def test_without_noise_the_gradient_is_zero_and_with_it_is_not() -> None:
    program = program_of(Net(), images(1)[0])

    def undisturbed(output: Tensor, batch: Tensor) -> Tensor:
        return F.mse_loss(output, program(batch).detach())

    with pytest.raises(PreconditionError, match=r"graphopt\.scores\.disturbed_self_loss"):
        collect_gradients(program, Context(calibration=images(2), loss=undisturbed))
    found = collect_gradients(program, Context(calibration=images(2), loss=disturbed_self_loss(program)))
    assert all(bool(value.any()) for value in found.sums.values())
    again = collect_gradients(program, Context(calibration=images(2), loss=disturbed_self_loss(program)))
    assert all(torch.equal(again.sums[name], value) for name, value in found.sums.items())


def test_the_loss_is_the_size_of_the_noise() -> None:
    x = torch.randn(50, 40)
    program = program_of(nn.Linear(40, 200), x)
    loss = disturbed_self_loss(program, scale=0.5)
    assert loss(program(x), x).item() == pytest.approx(0.25, rel=0.05)


def test_means_of_several_outputs_are_summed_and_integers_left_out() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 400)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.linear(x)
            return {"a": y, "b": y[:, :100], "c": y.argmax(1)}

    x = torch.randn(50, 3)
    program = program_of(Three(), x)
    assert disturbed_self_loss(program, scale=1.0)(program(x), x).item() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_noise_of_no_size_is_an_error(scale: float) -> None:
    with pytest.raises(PreconditionError, match="wanted above 0, for without noise the gradient is zero"):
        disturbed_self_loss(program_of(nn.Linear(2, 2), torch.randn(3, 2)), scale)
