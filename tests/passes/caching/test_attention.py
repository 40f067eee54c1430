"""Where attention ends: behind layout and the output projection, before gates and residual adds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.passes.caching.attention import AttentionValue, attention_values


class Attention(nn.Module):
    """Two heads over tokens, fused or written out, with or without projection and gate."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, hidden: Tensor, other: Tensor) -> Tensor:
        query, key, value = (
            layer(one).unflatten(-1, (2, 4)).transpose(1, 2)
            for layer, one in ((self.query, hidden), (self.key, other), (self.value, other))
        )
        if self.form == "written":
            found = torch.softmax(query @ key.transpose(-1, -2) / 2, dim=-1) @ value
        else:
            found = F.scaled_dot_product_attention(query, key, value)
        joined = found.transpose(1, 2).flatten(2)
        return joined if self.form == "bare" else self.out(joined) / 1.5


class Layer(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.own, self.cross = Attention(form), Attention(form)

    def forward(self, sample: Tensor, gate: Tensor, text: Tensor) -> Tensor:
        sample = sample + gate * self.own(sample, sample)
        return sample + self.cross(sample, text)


@pytest.mark.parametrize(("form", "operator"), [("fused", "div"), ("written", "div"), ("bare", "reshape")])
def test_self_and_cross_attention_end_before_gate_and_add(form: str, operator: str) -> None:
    args = (torch.randn(2, 3, 8), torch.randn(2, 1, 8), torch.randn(2, 5, 8))
    program = graphopt.capture(Layer(form).eval(), args)
    found = attention_values(program)
    assert [item.kind for item in found] == ["self", "cross"]
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    for item, user in zip(found, ("mul", "add"), strict=True):
        node = nodes[item.value]
        assert operator in str(node.target) or form == "bare"
        assert [str(one.target).split(".")[1] for one in node.users] == [user]
    result = graphopt.Pipeline("pab{window=none,self_attention=2,cross_attention=3}").run(program)
    assert result.schedule is not None
    assert [slot.cut.value for slot in result.schedule.slots.values()] == [item.value for item in found]


class Joint(nn.Module):
    """Attention over sample and text at once, split again behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, sample: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([text, sample], dim=1)
        found = F.scaled_dot_product_attention(both, both, both)
        words, image = found[:, :5], found[:, 5:]
        return sample + self.image(image), text + self.words(words)


def test_joint_attention_ends_once_a_stream() -> None:
    program = graphopt.capture(Joint().eval(), (torch.randn(2, 3, 8), torch.randn(2, 5, 8)))
    assert sorted(item.value for item in attention_values(program)) == ["linear", "linear_1"]
    assert {item.kind for item in attention_values(program)} == {"self"}


def test_other_products_are_no_attention() -> None:
    class Products(nn.Module):
        def forward(self, sample: Tensor) -> Tensor:
            return torch.softmax(sample, dim=-1) * (sample @ sample.transpose(-1, -2))

    program = graphopt.capture(Products().eval(), (torch.randn(2, 3, 3),))
    assert attention_values(program) == ()
    assert AttentionValue("a", "self") != AttentionValue("a", "cross")
