from collections import OrderedDict

import pytest
import torch
from torch import nn

from graphopt.untouched import untouched


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.calls, self.cache = 0, None
        self.table, self.log, self.order = {"a": 1}, [1], OrderedDict(a=1)


class Sealed(dict):
    """A dict that nobody may write to, as configurations are."""

    def clear(self) -> None:
        raise TypeError("sealed")


def test_attributes_and_plain_containers_come_back() -> None:
    model = Stateful().train()
    model.config = Sealed(width=2)
    weight = model.inner.weight
    with untouched(model):
        model.eval()
        model.calls, model.cache, model.late = 7, torch.ones(1), 1
        model.table["b"] = 2
        model.log.append(2)
        model.order.clear()
        model.inner.weight = nn.Parameter(torch.zeros(2, 2))
        model.inner.extra = nn.ReLU()
        model.register_buffer("buffer", torch.ones(1))
    assert (model.calls, model.cache, model.training, model.inner.training) == (0, None, True, True)
    assert (model.table, model.log, list(model.order)) == ({"a": 1}, [1], ["a"])
    assert model.inner.weight is weight
    assert not hasattr(model, "late")
    assert [name for name, _ in model.named_modules()] == ["", "inner"]
    assert list(model.state_dict()) == ["inner.weight", "inner.bias"]


def test_they_come_back_when_the_block_raises() -> None:
    model = Stateful()

    def spoil() -> None:
        with untouched(model):
            model.calls = 1
            raise KeyError

    with pytest.raises(KeyError):
        spoil()
    assert model.calls == 0
