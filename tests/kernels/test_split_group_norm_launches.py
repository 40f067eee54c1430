import re
from typing import Any

import torch

from graphopt.kernels import moments
from graphopt.kernels import split_group_norm as module


def arguments(
    first: tuple[int, ...],
    width: int,
    groups: int,
    *,
    known: str = "",
    layout: torch.memory_format = torch.contiguous_format,
) -> tuple[Any, ...]:
    """Arguments of a first half of a shape and a second one with `width` channels; `known` tells whose statistics."""
    shapes = {"first": first, "second": (first[0], width, *first[2:])}
    halves = [torch.zeros(shape, dtype=torch.bfloat16).to(memory_format=layout) for shape in shapes.values()]
    statistics = [torch.zeros(*shape[:2], 2) if half in known.split() else None for half, shape in shapes.items()]
    affine = torch.zeros(first[1] + width, dtype=torch.bfloat16)
    return *halves, groups, affine, affine, 1e-5, True, *statistics


def compiled_both(compiled: Any, given: tuple[Any, ...]) -> list[Any]:
    """The launches of a call, statistics and norm, compiled in their order."""
    inner: list[Any] = []

    def launch() -> None:
        places = [moments.strided(half) for half in given[:2]]
        inner.extend(compiled(module, lambda: module._launch(*places, *given[2:])))

    return [*compiled(moments, launch), *inner]


class TestLaunches:
    def test_of_rows(self, compiled: Any) -> None:
        given = arguments((2, 320, 64, 64), 640, 32)
        statistics, norm = compiled_both(compiled, given)
        assert statistics.grid == (2 * 960, 1)
        assert norm.grid == (2 * 960 * 4,)
        assert not norm.arguments["merged"]
        for launch in (statistics, norm):
            assert len(re.findall(r"ld\.global\.v4\.b32", launch.ptx)) == 2
        assert len(re.findall(r"st\.global\.v4\.b32", norm.ptx)) == 1

    def test_of_channels_last(self, compiled: Any) -> None:
        given = arguments((2, 320, 64, 64), 640, 32, layout=torch.channels_last)
        statistics, merging, norm = compiled_both(compiled, given)
        assert statistics.grid == (2 * 30, 16)
        assert merging.grid == (2 * 32,)
        assert norm.grid == (2 * 30 * 64,)
        assert norm.arguments["out"].is_contiguous(memory_format=torch.channels_last)
        assert "ld.global.v4.b32" in statistics.ptx
        assert "st.global.v4.b32" in norm.ptx
        assert "ld.global.b16" not in statistics.ptx

    def test_known_statistics_are_not_taken_again(self, compiled: Any) -> None:
        statistics, norm = compiled_both(compiled, arguments((2, 4, 8, 8), 12, 4, known="second"))
        assert statistics.arguments["y_width"] == 0
        assert statistics.arguments["x"].shape == (2, 4, 8, 8)
        assert statistics.grid == (8, 1)
        assert norm.grid == (32,)
        statistics, _ = compiled_both(compiled, arguments((2, 4, 8, 8), 12, 4, known="first"))
        assert statistics.arguments["x"].shape == (2, 12, 8, 8)
        assert statistics.grid == (24, 1)
        (norm,) = compiled_both(compiled, arguments((2, 4, 8, 8), 12, 4, known="first second"))
        assert norm.grid == (32,)
