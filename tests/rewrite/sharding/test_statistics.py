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
    """The formula of the paper, part by part, with the model's own variance."""

    def moments(value: Tensor) -> Tensor:
        flat = value.reshape(2, groups, -1)
        return torch.stack([flat.mean(-1), (flat * flat).mean(-1)])

    stale = [moments(part) for part in before.split(rows, 2)]
    total = sum(moment * count / sum(rows) for moment, count in zip(stale, rows, strict=True))
    out = []
    for part, old in zip(now.split(rows, 2), stale, strict=True):
        fresh = moments(part)
        mean, square = total + fresh - old
        variance = square - mean**2
        variance = torch.where(variance < 0, fresh[1] - fresh[0] ** 2, variance)
        flat = (part.reshape(2, groups, -1) - mean[..., None]) / torch.sqrt(variance + EPS)[..., None]
        out.append(flat.reshape(part.shape))
    return torch.cat(out, 2)


@pytest.mark.parametrize("step", [0.3, 30.0])
def test_steady_steps_follow_the_formula_of_distrifusion(step: float) -> None:
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
