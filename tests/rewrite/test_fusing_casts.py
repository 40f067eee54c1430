"""Norms between casts to float32 and back: what is fused, bit for bit, in half precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.rewrite.fusing.programs import Fused, fuse

WIDTH = 32
HALVES = (torch.float16, torch.bfloat16)
Normalise = Callable[["Model", Tensor], Tensor]


class Model(nn.Module):
    """A sub-layer, a norm of its sum with the stream, and another sub-layer."""

    def __init__(self, normalise: Normalise, *, modulated: bool) -> None:
        super().__init__()
        self.normalise, self.modulated = normalise, modulated
        self.deep, self.next = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.weight = nn.LayerNorm(WIDTH), nn.Parameter(torch.rand(WIDTH))
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, sample: Tensor, time: Tensor) -> Tensor:
        gate, scale, shift = time[:, None].chunk(3, -1)
        if not self.modulated:
            return self.next(self.normalise(self, sample + self.deep(sample)))
        hidden = sample + gate * self.deep(sample)
        return hidden + self.next(self.normalise(self, hidden) * (1 + scale) + shift)


def layer(model: Model, hidden: Tensor) -> Tensor:
    weight, bias = model.norm.weight.float(), model.norm.bias.float()
    return F.layer_norm(hidden.float(), (WIDTH,), weight, bias, 1e-6).to(hidden.dtype)


def layer_without_weight(model: Model, hidden: Tensor) -> Tensor:
    return F.layer_norm(hidden.float(), (WIDTH,)).type_as(hidden)


def wide_layer(model: Model, hidden: Tensor) -> Tensor:
    """Its parameters stay in float32 where the model is in half precision."""
    return model.norm(hidden.float()).to(hidden.dtype)


def root(model: Model, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden.float(), (WIDTH,), model.weight.float(), 1e-6).to(hidden.dtype)


def late_root(model: Model, hidden: Tensor) -> Tensor:
    variance = hidden.to(torch.float32).pow(2).mean(-1, keepdim=True)
    return (hidden * torch.rsqrt(variance + 1e-6)).to(model.weight.dtype) * model.weight


def late_root_of_the_cast(model: Model, hidden: Tensor) -> Tensor:
    wide = hidden.float()
    return model.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(hidden.dtype)


def early_root(model: Model, hidden: Tensor) -> Tensor:
    wide = hidden.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (normed * model.weight.float()).to(hidden.dtype)


NORMS: dict[str, tuple[Normalise, str]] = {
    "layer": (layer, "$norm.weight, $norm.bias, {}, 'layer', 1e-06, True)"),
    "layer without weight": (layer_without_weight, "None, None, {}, 'layer', 1e-05, True)"),
    "layer in float32": (wide_layer, "$norm.weight, $norm.bias, {}, 'layer', 1e-05, True)"),
    "rms": (root, "%to_1, None, {}, 'rms', 1e-06, True)"),
    "rms, weight behind the cast": (late_root, "$weight, None, {}, 'rms', 1e-06, True)"),
    "rms of the cast": (late_root_of_the_cast, "$weight, None, {}, 'rms', 1e-06, True)"),
    "rms, weight before the cast": (early_root, "%to_1, None, {}, 'rms', 1e-06, True)"),
}


def fused_of(normalise: Normalise, dtype: torch.dtype, *, modulated: bool) -> Fused:
    """Fuse the cached program and compare it with the one without kernels."""
    torch.manual_seed(0)
    model = Model(normalise, modulated=modulated).eval().requires_grad_(False).to(dtype)
    if normalise is wide_layer:
        model.norm.float()
    program = graphopt.capture(model, (torch.randn(2, 5, WIDTH).to(dtype), torch.randn(2, 3 * WIDTH).to(dtype)))
    result = graphopt.Pipeline("insert-cache{cuts=[linear],schedule=uniform:3,allow_dead=[*]}").run(program)
    assert result.schedule is not None
    cached = result.programs["cached"]
    made = fuse(cached, result.schedule, "cached", ("cached_apply", "stack_apply"))
    given = (torch.randn(3, 5, WIDTH).to(dtype), torch.randn(3, 3 * WIDTH).to(dtype))
    slot = torch.randn(3, 5, WIDTH).to(dtype)
    assert torch.equal(made.program(*given, cache_0=slot)[0], cached(*given, cache_0=slot)[0])
    return made


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_norms_between_casts(name: str, modulated: bool, dtype: torch.dtype) -> None:
    normalise, arguments = NORMS[name]
    made = fused_of(normalise, dtype, modulated=modulated)
    assert [fusion.kernel for fusion in made.fusions] == ["cached_apply" if modulated else "stack_apply"]
    assert made.refused == ()
    text = str(made.program)
    assert arguments.format("%getitem_1, %getitem_2" if modulated else "None, None") in text
    assert text.count("aten.to.") == arguments.startswith("%to")
    assert "rsqrt" not in text


def test_no_cast_is_left_for_the_model_in_single_precision() -> None:
    text = str(fused_of(late_root, torch.float32, modulated=True).program)
    assert "$weight, None, %getitem_1, %getitem_2, 'rms', 1e-06, False)" in text


def test_a_norm_that_stays_in_float32_is_left_alone() -> None:
    def normalise(model: Model, hidden: Tensor) -> Tensor:
        return (F.layer_norm(hidden.float(), (WIDTH,)) * 2).to(hidden.dtype)

    made = fused_of(normalise, torch.float16, modulated=False)
    assert made.fusions == ()
    assert made.refused == ("cache_0: to (aten.to) reads add, which adds it, wanted a layer_norm or rms_norm",)


def test_a_weight_in_float32_behind_the_cast_stays_outside() -> None:
    def normalise(model: Model, hidden: Tensor) -> Tensor:
        normed = F.rms_norm(hidden.float(), (WIDTH,), eps=1e-6).to(hidden.dtype)
        return (normed * model.weight.float()).to(hidden.dtype)

    text = str(fused_of(normalise, torch.float16, modulated=False).program)
    assert "graphopt.stack_apply(%sample, %cache_0, None, None, None, None, 'rms', 1e-06, True)" in text


def test_a_cast_that_others_read_too_keeps_the_sum() -> None:
    def normalise(model: Model, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        return F.layer_norm(wide, (WIDTH,)).to(hidden.dtype) * wide.mean(-1, keepdim=True).to(hidden.dtype)

    made = fused_of(normalise, torch.float16, modulated=False)
    assert [fusion.kernel for fusion in made.fusions] == ["cached_apply"]
