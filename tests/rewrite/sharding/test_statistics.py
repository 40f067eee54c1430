"""GroupNorm over parts: exact in synchronous steps, corrected by the own part in steady ones."""

from __future__ import annotations

import pytest
import torch
from rewrite.sharding.programs import captured, error, parted, run
from torch import Tensor, nn

from graphopt.program import Program
from graphopt.rewrite.placing.emulator import Emulator

EPS = 1e-3


def _program(rows: int = 7, *, affine: bool = True) -> Program:
    if not affine:
        return captured(lambda x: nn.functional.group_norm(x, 2, eps=EPS), (2, 6, rows, 3))

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.group_norm(x, 3, weight, bias, EPS)

    return captured(call, (2, 6, rows, 3), weight=(6,), bias=(6,))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("dim", "parts"), [(2, 2), (2, 3), (3, 2), (3, 3)])
def test_statistics_are_those_of_the_whole(dim: int, parts: int, affine: bool) -> None:
    program = _program(affine=affine)
    spread, placed = parted(program, f"operands_0:{dim}", parts)
    assert spread.gathered == ()
    assert error(run(placed.program), run(program)) < 1e-12


def test_only_moments_cross() -> None:
    _, placed = parted(_program(), "operands_0:2", 2)
    nodes = {node.name: node for node in placed.program.graph_module.graph.nodes}
    crossing = {
        source.name
        for name, site in placed.sites.items()
        for source in nodes[name].all_input_nodes
        if source.name in placed.sites and placed.sites[source.name].device != site.device
    }
    sizes = sorted(nodes[name].meta["val"].numel() // nodes[name].meta["val"].shape[1] for name in crossing)
    assert sizes[0] == 2 * 3  # mean and variance of three groups, for each of the batch


def _corrected(now: Tensor, before: Tensor, groups: int, rows: list[int]) -> Tensor:
    """The moments of the whole a step ago, moved as far as the own mean and grown as much as the own variance."""

    def moments(value: Tensor) -> Tensor:
        flat = value.reshape(2, groups, -1)
        return torch.stack([flat.mean(-1), flat.var(-1, correction=0)])

    old = before.reshape(2, groups, -1)
    out = []
    for part, stale in zip(now.split(rows, 2), before.split(rows, 2), strict=True):
        (mean, variance), (mean_before, variance_before) = moments(part), moments(stale)
        moved = old.mean(-1) + mean - mean_before
        grown = old.var(-1, correction=0) * (variance + EPS) / (variance_before + EPS)
        flat = (part.reshape(2, groups, -1) - moved[..., None]) / torch.sqrt(grown + EPS)[..., None]
        out.append(flat.reshape(part.shape))
    return torch.cat(out, 2)


@pytest.mark.parametrize("step", [0.3, 30.0])
def test_steady_steps_correct_old_moments_by_the_own_part(step: float) -> None:
    program = _program(affine=False)
    _, placed = parted(program, "operands_0:2", 3, displaced=True)
    emulator = Emulator({"sync": placed, "steady": placed})
    before = program.args[0]
    now = before * step + 1
    assert error(emulator.run("sync", (before,), {}), run(program)) < 1e-10
    found = emulator.run("steady", (now,), {})
    assert error(found, _corrected(now, before, 2, [3, 2, 2])) < 1e-10
    whole = nn.functional.group_norm(now, 2, eps=EPS)
    assert error(found, whole) > 1e-3
