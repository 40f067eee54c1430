"""Forms of einsum: ellipsis, implicit output, repeated letters, broadcasting, roles in attention."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.rules.einsum import Equation

Axes = Callable[..., dict[str, int]]


@pytest.mark.parametrize(
    ("text", "ranks", "operands", "output"),
    [
        ("ij,jk->ik", (2, 2), ("ij", "jk"), "ik"),
        ("b i , i o", (2, 2), ("bi", "io"), "bo"),
        ("ba", (2,), ("ba",), "ab"),
        ("ii", (2,), ("ii",), ""),
        ("...d,dk->...k", (4, 2), ("321d", "dk"), "321k"),
        ("...,...", (2, 1), ("21", "1"), "21"),
        ("b...d->bd...", (3,), ("b1d",), "bd1"),
        ("...a->a", (3,), ("21a",), "a"),
    ],
)
def test_equations_are_read(text: str, ranks: tuple[int, ...], operands: tuple[str, ...], output: str) -> None:
    equation = Equation.read(text, ranks)
    assert ["".join(labels) for labels in equation.operands] == list(operands)
    assert "".join(equation.output) == output


@pytest.mark.parametrize(("text", "ranks"), [("ij,jk->ik", (2,)), ("ij->i", (3,)), ("ijk->i", (2,))])
def test_an_equation_that_does_not_fit_is_refused(text: str, ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"equation|term"):
        Equation.read(text, ranks)


@pytest.mark.parametrize(
    "equation", ["bnd,dk->bnk", "bnd,dk", "...d,dk->...k", "...d,dk", "b...d,dk->b...k", "dk,bnd->bnk", "b n d, d k"]
)
def test_a_weight_produces_what_survives(around: Axes, equation: str) -> None:
    def product(x: Tensor, w: Tensor) -> Tensor:
        return torch.einsum(equation, *((w, x) if equation.startswith("dk") else (x, w)))

    assert around(product, w=(6, 8)) == {"enter.weight:0": 6, "raw.w:1": 8}


def test_letters_of_size_one_broadcast(around: Axes) -> None:
    axes = around(lambda x, w: torch.einsum("bnd,nd->bnd", x, w), w=(1, 6))
    assert axes == {"enter.weight:0": 6}


def test_a_batch_of_matrices_is_a_choice_of_experts(analysed: Callable[..., DependencyGraph]) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 6, 8))
            self.down = nn.Parameter(torch.randn(4, 8, 6))
            self.gate = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(torch.einsum("bnd,edf->benf", x, self.up))
            out = torch.einsum("benf,efd->bend", hidden, self.down)
            return torch.einsum("bend,bne->bnd", out, torch.sigmoid(self.gate(x)))

    graph = analysed(Experts(), torch.randn(3, 4, 6))
    assert {group.id: (group.kind, group.size) for group in graph.groups} == {
        "up:0": ("expert", 4),
        "up:2": ("hidden", 8),
    }


class Attention(nn.Module):
    """Attention by einsum over heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 20) for _ in range(3))
        self.out = nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 4, 6)``."""
        q, k, v = (linear(x).unflatten(-1, (4, 5)) for linear in (self.q, self.k, self.v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        out: Tensor = self.out(torch.einsum("bhqk,bkhd->bqhd", scores, v).flatten(2))
        return out


def test_attention_has_heads_and_two_kinds_of_dimensions(analysed: Callable[..., DependencyGraph]) -> None:
    graph = analysed(Attention(), torch.randn(3, 4, 6))
    assert sorted((group.kind, group.size) for group in graph.groups) == [("head", 4), ("qk_dim", 5), ("vo_dim", 5)]


def test_a_contraction_that_zero_does_not_reach_is_a_residue(analysed: Callable[..., DependencyGraph]) -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bnd,bmd->bnm", torch.sigmoid(self.a(x)), torch.sigmoid(self.b(x)))

    graph = analysed(Sums(), torch.randn(3, 4, 6))
    assert [(group.size, sorted(group.marks)) for group in graph.groups] == [(8, ["residue"])]


def test_a_diagonal_ties_both_dimensions(around: Axes) -> None:
    axes = around(lambda x, w: torch.einsum("bnd,dd->bnd", x, w), w=(6, 6))
    assert axes == {"enter.weight:0": 6}


class Written(nn.Module):
    """Attention over weights by head, its output folded into the sum over the values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Parameter(torch.randn(3, 8, 7)), nn.Parameter(torch.randn(3, 8, 7))
        self.value, self.out = nn.Parameter(torch.randn(3, 8, 5)), nn.Parameter(torch.randn(3, 5, 8))
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, n, 4)``."""
        x = self.enter(x)
        query, key = (torch.einsum("bnd,hdk->bhnk", x, weight) for weight in (self.query, self.key))
        weights = torch.einsum("bhnk,bhmk->bhnm", query, key).softmax(-1)
        value = torch.einsum("bnd,hdv->bhnv", x, self.value)
        out: Tensor = self.leave(torch.einsum("bhnm,bhmv,hvd->bnd", weights, value, self.out))
        return out


def test_heads_of_weights_by_head(analysed: Callable[..., DependencyGraph]) -> None:
    graph = analysed(Written(), torch.randn(2, 6, 4))
    kinds = {group.id: group.kind for group in graph.groups}
    assert kinds == {
        "query:0": "head",
        "query:1": "hidden",
        "query:2": "qk_dim",
        "value:2": "vo_dim",
        "out:2": "hidden",
    }
