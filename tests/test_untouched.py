import functools
from collections import OrderedDict

import pytest
import torch
from torch import nn

import graphopt
from graphopt.untouched import forget_results, untouched


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


class Table:
    """A helper that is no module, as tables of rotary positions often are."""

    def __init__(self) -> None:
        self.rows = None
        self.seen = []


def test_helper_objects_come_back() -> None:
    model = Stateful()
    model.helpers = [Table()]
    table = model.helpers[0]
    with untouched(model):
        table.rows = torch.ones(2)
        table.seen.append(1)
        table.late = 1
    assert (table.rows, table.seen) == (None, [])
    assert not hasattr(table, "late")
    assert model.helpers == [table]


class Biased(nn.Module):
    """Keeps what it made of a parameter for the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.made, self.sizes = nn.Parameter(torch.ones(2)), {}, {"rows": 2}

    def forward(self, x):
        if "cpu" not in self.made:
            self.made["cpu"] = self.bias * 2
        return x + self.made["cpu"]


def test_results_of_earlier_calls_are_forgotten_and_other_entries_stay() -> None:
    model = Biased()
    assert not forget_results(model)
    model(torch.zeros(3, 2))
    assert forget_results(model)
    assert (model.made, model.sizes) == ({}, {"rows": 2})
    assert model.bias is not None


def test_a_model_that_was_called_before_is_captured_with_its_parameters() -> None:
    model = Biased().eval()
    with torch.no_grad():
        model(torch.zeros(3, 2))
    made = model.made["cpu"]
    program = graphopt.capture(model, (torch.zeros(3, 2),))
    assert [str(node.target) for node in program.nodes() if node.op == "get_attr"] == ["bias"]
    assert model.made["cpu"] is made


def test_methods_forget_what_they_kept_for_stand_ins() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        @functools.lru_cache(maxsize=8)  # noqa: B019  # the libraries do this
        def ramp(self, length: int) -> torch.Tensor:
            return torch.arange(length) + self.linear.bias.detach()[:1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + self.ramp(4)

    model, x = Table(), torch.randn(2, 4)
    graphopt.capture(model, (x,))
    assert Table.ramp.cache_info().currsize == 0
    assert torch.equal(model(x), model.linear(x) + torch.arange(4) + model.linear.bias[:1])
