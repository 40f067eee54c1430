import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import GraphoptError


class Masked(nn.Module):
    """A layer that padded inputs alone go through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, scale: float = 1.0, *, mask: Tensor, **others: Any) -> Tensor:
        hidden = torch.relu(self.first(x)) * scale
        if mask.any():
            hidden = torch.relu(self.middle(hidden.masked_fill(mask[..., None], 0.0)))
        out: Tensor = self.last(hidden)
        return out


def padded(rows: int, *, padding: int) -> Tensor:
    mask = torch.zeros(rows, 6, dtype=torch.bool)
    mask[:, 6 - padding :] = True
    return mask


@pytest.mark.parametrize("padding", [0, 2])
def test_the_class_asks_what_the_program_asks(padding: int) -> None:
    torch.manual_seed(0)
    model, x = Masked().eval(), torch.randn(2, 6, 16)
    result = graphopt.optimize(
        model, (x,), {"mask": padded(2, padding=padding)}, passes="prune-channels{ratio=0.5,importance=random}"
    )
    own = result.module(model)
    same, other = padded(2, padding=padding), padded(2, padding=2 - padding)
    assert torch.allclose(own(x, mask=same), result.program(x, mask=same), atol=1e-6)
    for module in (own, copy.deepcopy(own)):
        with pytest.raises(GraphoptError, match="the inputs' data give"):
            module(x, mask=other)
        with pytest.raises(GraphoptError, match="the inputs' data give"):
            module(mask=other, x=x)
    with pytest.raises(TypeError, match="mask"):
        own(x)
    model(x, mask=other)
    own.load_state_dict(own.state_dict())


def test_a_model_that_asks_nothing_has_no_hook() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    result = graphopt.optimize(model, (torch.randn(2, 4),), passes="prune-channels{ratio=0.5}")
    own = result.module(model)
    assert not own._forward_pre_hooks
    assert isinstance(pickle.loads(pickle.dumps(own)), nn.Sequential)
