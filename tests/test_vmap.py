"""Code that maps a function over a dimension is written down as the calls on whole tensors that torch makes of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from graphopt import PassContext, Pipeline, capture
from graphopt.errors import CaptureError

Forward = Callable[["Mapped", torch.Tensor], torch.Tensor]


class Mapped(nn.Module):
    """Two layers with a mapped function between them."""

    def __init__(self, between: Forward) -> None:
        super().__init__()
        self.between = between
        self.first, self.inner, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.convolution = nn.Conv1d(16, 16, 3, padding=1)
        self.members = nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self, self.first(x).relu()))


def by_index(self: Mapped, x: torch.Tensor) -> torch.Tensor:
    """Mask attention by a function of single places, as language models of transformers do."""
    rows, places = torch.arange(len(x)), torch.arange(x.shape[1])

    def allowed(row: Any, query: Any, key: Any) -> Any:
        return (query >= key) | (row + query > 3)

    over_keys = vmap(allowed, in_dims=(None, None, 0))
    mask = vmap(vmap(over_keys, in_dims=(None, 0, None)), in_dims=(0, None, None))(rows, places, places)
    return torch.softmax((x @ x.mT).masked_fill(~mask, -1e9), -1) @ x


def by_member(self: Mapped, x: torch.Tensor) -> torch.Tensor:
    """Ask every member of an ensemble, each with its own weights."""

    def one(weight: torch.Tensor) -> torch.Tensor:
        return functional_call(self.inner, {"weight": weight}, (x,))

    return vmap(one)(self.members).mean(0)


FORWARDS: dict[str, Forward] = {
    "a layer over rows": lambda self, x: vmap(self.inner)(x),
    "a convolution over rows": lambda self, x: vmap(self.convolution)(x.mT).mT,
    "another dimension in and out": lambda self, x: vmap(self.inner, in_dims=1, out_dims=1)(x),
    "in chunks of an inner dimension": lambda self, x: vmap(self.inner, in_dims=1, out_dims=1, chunk_size=2)(x),
    "two operands": lambda self, x: vmap(lambda one, other: one @ other.T @ one)(x, x + 1),
    "an operand of the code": lambda self, x: vmap(lambda one: one * torch.ones(16))(x),
    "masks of indices": by_index,
    "an ensemble": by_member,
}


@pytest.mark.parametrize("name", FORWARDS)
def test_mapped_functions_are_captured_and_pruned(name: str) -> None:
    model, x = Mapped(FORWARDS[name]).eval(), torch.randn(2, 5, 6)
    program = capture(model, (x,))
    for rows in (x, torch.randn(7, 5, 6)):
        torch.testing.assert_close(program(rows), model(rows))
    result = Pipeline("prune-channels{ratio=0.5,scope=uniform}").run(program, PassContext(seed=0))
    assert result.report is not None
    assert result.program(torch.randn(3, 5, 6)).shape == (3, 5, 3)
    left = {name: tuple(one.shape) for name, one in result.program.parameters.items()}
    assert left["first.weight"] == (8, 6)
    assert left["last.weight"] == (3, 8)


def test_mapped_functions_in_code_that_reads_its_data() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return vmap(self.layer)(x) if mask.all() else x

    model, x = Masked().eval(), torch.randn(2, 5, 6)
    program = capture(model, (x, torch.ones(2, 5, dtype=torch.bool)))
    inputs = torch.randn(7, 5, 6), torch.ones(7, 5, dtype=torch.bool)
    torch.testing.assert_close(program(*inputs), model(*inputs))


def test_other_transforms_are_refused() -> None:
    def between(self: Mapped, x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda one: self.inner(one).square().sum())(x)

    with pytest.raises(CaptureError, match=r"transform of torch\.func such as .*test_vmap\.py:\d+: .*opaque"):
        capture(Mapped(between), (torch.randn(2, 5, 6),))
