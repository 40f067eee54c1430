"""Windows over a split axis equal those over the whole: convolutions, pooling, resampling, padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rewrite.sharding.programs import captured, error, parted, run
from torch import Tensor, nn

from graphopt.rewrite.sharding.windows import Window

aten = torch.ops.aten
F = nn.functional
EXACT = 1e-12


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(8, 20))
def test_reach_is_what_the_windows_read(kernel: int, stride: int, padding: int, dilation: int, size: int) -> None:
    window = Window(kernel, stride, padding, dilation)
    assume(window.outputs(size) > 1)
    value = torch.zeros(1, 1, size, requires_grad=True)
    out = F.conv1d(value, torch.ones(1, 1, kernel), None, stride, padding, dilation)
    assert out.shape[-1] == window.outputs(size)
    (gradient,) = torch.autograd.grad(out[..., 1].sum(), value)
    first, last = window.reach(1, 2)
    read = torch.nonzero(gradient[0, 0])
    if len(read) == kernel:
        assert (int(read[0]), int(read[-1]) + 1) == (first, last)


@settings(max_examples=7)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(9, 17), st.integers(2, 3)
)
def test_a_convolution_is_exact(kernel: int, stride: int, padding: int, dilation: int, size: int, parts: int) -> None:
    assume(Window(kernel, stride, padding, dilation).outputs(size) >= 2 * parts)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv1d(x, weight, bias, stride, padding, dilation)

    program = captured(call, (2, 3, size), weight=(4, 3, kernel), bias=(4,))
    spread, placed = parted(program, "operands_0:2", parts)
    assert spread.share == 1.0
    assert error(run(placed.program), run(program)) < EXACT


@settings(max_examples=7)
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.integers(6, 11), st.integers(2, 3)
)
def test_a_transposed_convolution_is_exact(
    kernel: int, stride: int, padding: int, dilation: int, size: int, parts: int
) -> None:
    rows = (size - 1) * stride - 2 * padding + (kernel - 1) * dilation + 1
    assume(rows > (parts - 1) * (-(-size // parts)) * stride)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv_transpose1d(x, weight, bias, stride, padding, 0, 1, dilation)

    program = captured(call, (2, 3, size), weight=(3, 4, kernel), bias=(4,))
    spread, placed = parted(program, "operands_0:2", parts)
    assert spread.share == 1.0
    assert error(run(placed.program), run(program)) < EXACT


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "mean": lambda x: F.avg_pool2d(x, 2),
    "mean, padded": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "nearest, told": lambda x: F.interpolate(x, size=(24, 18), mode="nearest"),
    "zeros": lambda x: F.pad(x, (1, 0, 2, 1)),
    "a number": lambda x: F.pad(x, (0, 0, 0, 3), value=0.5),
    "blocks": lambda x: F.pixel_unshuffle(x, 2),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("parts", [2, 3])
def test_other_windows_are_exact_and_divided(name: str, parts: int) -> None:
    program = captured(CALLS[name], (2, 4, 12, 6))
    spread, placed = parted(program, "operands_0:2/2", parts)
    assert spread.gathered == ()
    assert error(run(placed.program), run(program)) < EXACT


def test_gaps_between_windows_belong_to_a_part() -> None:
    program = captured(lambda x, weight: F.conv_transpose1d(x, weight, stride=3), (2, 3, 6), weight=(3, 4, 1))
    spread, placed = parted(program, "operands_0:2", 3)
    assert spread.share == 1.0
    assert error(run(placed.program), run(program)) < EXACT


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "windows at the border count fewer inputs": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "the last windows reach over the border": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "it is padded by what lies at the border": lambda x: F.pad(x, (0, 0, 1, 1), mode="reflect"),
    "it is resampled": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "it is resampled by no whole factor": lambda x: F.interpolate(x, size=(18, 9), mode="nearest"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_divided_is_gathered(reason: str) -> None:
    program = captured(REFUSED[reason], (2, 4, 12, 6))
    spread, placed = parted(program, "operands_0:2", 2)
    assert [found for _, found in spread.gathered] == [reason]
    assert error(run(placed.program), run(program)) < EXACT


def test_only_neighbouring_rows_cross() -> None:
    def call(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, first, padding=1), second, padding=1)

    program = captured(call, (2, 3, 12, 5), first=(4, 3, 3, 3), second=(2, 4, 3, 3))
    _, placed = parted(program, "operands_0:2", 3)
    nodes = {node.name: node for node in placed.program.graph_module.graph.nodes}
    crossing = {
        source.name: (placed.sites[source.name].device, site.device, source.meta["val"].shape[2])
        for name, site in placed.sites.items()
        for source in nodes[name].all_input_nodes
        if source.name in placed.sites
        and placed.sites[source.name].device != site.device
        and nodes[name].target is aten.cat.default
        and site.device
    }
    assert sorted(crossing.values()) == [(0, 1, 1), (1, 2, 1), (2, 1, 1)]
