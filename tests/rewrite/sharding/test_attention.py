"""Attention over split tokens: masks, groups of heads, what is read, and attention that sees a part of the axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rewrite.sharding.programs import captured, error, parted, run
from torch import Tensor, nn

from graphopt.program import Program
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.sharding.attention import seen_keys
from graphopt.rewrite.sharding.question import DualScope

sdpa = nn.functional.scaled_dot_product_attention
Call = Callable[..., Any]


def _heads(value: Tensor, heads: int) -> Tensor:
    return value.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(options: dict[str, Any], kv_heads: int = 4) -> Call:
    def call(x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (nn.functional.linear(x, weight) for weight in (query, key, value))
        return sdpa(_heads(q, 4), _heads(k, kv_heads), _heads(v, kv_heads), **options).transpose(1, 2).flatten(2)

    return call


def _written_out(x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (_heads(nn.functional.linear(x, weight), 4) for weight in (query, key, value))
    scores = q @ k.transpose(-1, -2) / 2.0
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return (scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)


MASK = torch.randn(11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
CALLS: dict[str, tuple[Call, int]] = {
    "plain": (_attend({}), 16),
    "causal": (_attend({"is_causal": True}), 16),
    "mask": (_attend({"attn_mask": MASK}), 16),
    "grouped": (_attend({"enable_gqa": True}, kv_heads=2), 8),
    "grouped and causal": (_attend({"enable_gqa": True, "is_causal": True}, kv_heads=2), 8),
    "written out": (_written_out, 16),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("parts", [2, 3])
def test_rows_of_attention_are_exact_and_divided(name: str, parts: int) -> None:
    call, width = CALLS[name]
    program = captured(call, (2, 11, 16), query=(16, 16), key=(width, 16), value=(width, 16))
    spread, placed = parted(program, "operands_0:1", parts)
    assert spread.share == 1.0
    assert error(run(placed.program), run(program)) < 1e-12


def test_a_causal_part_reads_no_later_keys() -> None:
    call, width = CALLS["causal"]
    program = captured(call, (2, 12, 16), query=(16, 16), key=(width, 16), value=(width, 16))
    _, placed = parted(program, "operands_0:1", 3)
    shapes = [
        node.args[1].meta["val"].shape[-2]
        for node in placed.program.graph_module.graph.nodes
        if node.target is torch.ops.aten.scaled_dot_product_attention.default
    ]
    assert shapes == [4, 8, 12]


def _second_step(program: Program, placed: Placed) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of a synchronous step and of the steady one after it, and what that gives."""
    emulator = Emulator({"sync": placed, "steady": placed})
    before = program.args[0]
    now = before + torch.randn_like(before)
    assert error(emulator.run("sync", (before,), {}), run(program)) < 1e-12
    return before, now, emulator.run("steady", (now,), {})


def test_displaced_parts_read_old_keys_of_others_and_their_own_fresh() -> None:
    call, width = CALLS["plain"]
    program = captured(call, (2, 12, 16), query=(16, 16), key=(width, 16), value=(width, 16))
    _, placed = parted(program, "operands_0:1", 2, displaced=True)
    before, now, found = _second_step(program, placed)
    first = run(program, torch.cat([now[:, :6], before[:, 6:]], 1))[:, :6]
    second = run(program, torch.cat([before[:, :6], now[:, 6:]], 1))[:, 6:]
    assert error(found, torch.cat([first, second], 1)) < 1e-12
    assert error(found, run(program, now)) > 1e-3


def test_a_pipeline_of_patches_reads_fresh_keys_of_earlier_ones() -> None:
    call, width = CALLS["plain"]
    program = captured(call, (2, 12, 16), query=(16, 16), key=(width, 16), value=(width, 16))
    nodes = [node.name for node in program.graph_module.graph.nodes if node.op == "call_function"]
    devices = {name: int(place > 2) for place, name in enumerate(nodes)}
    _, placed = parted(program, "operands_0:1", 3, displaced=True, devices=devices)
    before, now, found = _second_step(program, placed)
    wanted = [run(program, torch.cat([now[:, :stop], before[:, stop:]], 1))[:, stop - 4 : stop] for stop in (4, 8, 12)]
    assert error(found, torch.cat(wanted, 1)) < 1e-12
    named = {node.name: node for node in program.graph_module.graph.nodes}
    for name, site in placed.sites.items():
        if name in named:
            assert site.device == devices[name]


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        (DualScope(0, 0), ((4, 8),)),
        (DualScope(1, 0), ((3, 9),)),
        (DualScope(1, 3), ((0, 1), (3, 9))),
        (DualScope(0, 4), ((0, 1), (3, 8), (9, 10))),
        (DualScope(12, 0), ((0, 12),)),
    ],
)
def test_what_a_clip_sees(scope: DualScope, wanted: tuple[tuple[int, int], ...]) -> None:
    assert seen_keys(((4, 8),), 12, scope) == wanted


@pytest.mark.parametrize("scope", [DualScope(0, 0), DualScope(2, 3), DualScope(12, 0)])
def test_attention_of_a_scope_is_that_over_the_keys_it_sees(scope: DualScope) -> None:
    call, width = CALLS["plain"]
    program = captured(call, (2, 12, 16), query=(16, 16), key=(width, 16), value=(width, 16))
    _, placed = parted(program, "operands_0:1", 3, scope=scope)
    mask = torch.zeros(12, 12, dtype=torch.bool)
    for start in (0, 4, 8):
        for low, high in seen_keys(((start, start + 4),), 12, scope):
            mask[start : start + 4, low:high] = True
    seen = captured(_attend({"attn_mask": mask}), (2, 12, 16), query=(16, 16), key=(width, 16), value=(width, 16))
    assert error(run(placed.program), run(seen)) < 1e-12
    assert (error(run(placed.program), run(program)) < 1e-12) is bool(mask.all())
