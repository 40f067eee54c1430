"""The user's own class comes back in the forms in which torch lets models run."""

import pytest
import torch
from torch import Tensor, nn

import graphopt

HALF = "prune-channels{ratio=0.5}"


class Padded(nn.Module):
    """An encoder of torch's own, which gives zeros where padding is when nobody trains it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
        self.enter, self.leave = nn.Linear(6, 32), nn.Linear(32, 5)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        out: Tensor = self.leave(self.encoder(self.enter(x), src_key_padding_mask=padding))
        return out


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_with_padding_computes_what_it_is_trained_for(trains: bool) -> None:
    torch.manual_seed(0)
    model, x = Padded().eval().requires_grad_(trains), torch.randn(3, 7, 6)
    padding = torch.arange(7) >= torch.tensor([[7], [4], [5]])
    result = graphopt.optimize(model, (x, padding), passes=HALF)
    own = result.module(model)
    assert own.encoder.layers[0].linear1.out_features == 24
    found = own.requires_grad_()(x, padding)
    torch.testing.assert_close(found, result.program(x, padding), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.eval()(x, padding)[0], found[0], rtol=1e-4, atol=1e-5)


class Frozen(nn.Module):
    """A part that runs in inference mode before one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.learned, self.leave = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = torch.relu(self.fixed(x))
        return self.leave(torch.relu(self.learned(x)))


class Waves(nn.Module):
    """Complex layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16, dtype=torch.cfloat), nn.Linear(16, 3, dtype=torch.cfloat)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.view_as_complex(torch.view_as_real(self.enter(x.cfloat())).relu())).abs()


class Compiled(nn.Module):
    """A part that torch.compile made faster."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.inner = torch.compile(nn.Linear(16, 16), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.inner(torch.relu(self.enter(x)))))


@pytest.mark.parametrize("kind", [Frozen, Waves, Compiled])
def test_forms_of_running_come_back(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(5, 6)
    result = graphopt.optimize(model, (torch.randn(2, 6),), passes=HALF)
    own = result.module(model)
    assert own.leave.in_features == 8
    with torch.no_grad():
        torch.testing.assert_close(own(x), result.program(x), rtol=1e-4, atol=1e-5)


class Forces(nn.Module):
    """Gradients of an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(x).sum(), x)[0]


def test_code_that_takes_gradients_comes_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3), Forces()).eval()
    program = graphopt.capture(model, (torch.randn(2, 6),), opaque=("3",))
    result = graphopt.Pipeline(HALF).run(program)
    own, x = result.module(model), torch.randn(5, 6)
    assert own[0].out_features == 8
    with torch.no_grad():
        torch.testing.assert_close(own(x), result.program(x))
