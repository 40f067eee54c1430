"""Every operator with a coupling rule, computed in parts along every dimension, gives what the whole gives."""

from __future__ import annotations

import pytest
import torch
from rewrite.sharding.programs import Call, captured, error, parted, run
from torch import Tensor

import graphopt
from graphopt.dependency.registry import rule_table
from graphopt.program import Program

TABLE = {name: rule for name, rule in rule_table().items() if rule.sample is not None}
COMMON = (
    "aten.linear.default",
    "aten.matmul.default",
    "aten.einsum.default",
    "aten.layer_norm.default",
    "aten.reshape.default",
    "aten.permute.default",
    "aten.slice.Tensor",
    "aten.split_with_sizes.default",
    "aten.select.int",
    "aten.cat.default",
    "aten.stack.default",
    "aten.expand.default",
    "aten.repeat.default",
    "aten.unbind.int",
    "aten.cumsum.default",
    "aten.gather.default",
    "aten.mean.dim",
    "aten.pixel_shuffle.default",
)


def _program(name: str) -> Program:
    sample = TABLE[name].sample
    assert sample is not None
    torch.manual_seed(0)
    module = Call(sample.call, {key: torch.randn(shape) for key, shape in sample.parameters.items()})
    return graphopt.capture(module, tuple(torch.randn(3, *shape) for shape in sample.operands))


def _sweep(name: str) -> int:
    """Split every dimension of every operand; return how often something was divided."""
    program = _program(name)
    wanted = run(program)
    divided = 0
    for node in program.graph_module.graph.find_nodes(op="placeholder"):
        shape = node.meta["val"].shape
        for dim, parts in ((dim, parts) for dim in range(1, len(shape)) for parts in (2, 3)):
            if int(shape[dim]) < parts:
                continue
            spread, placed = parted(program, f"{node.name}:{dim}", parts)
            divided += any(recipe.gives is not None for recipe in spread.recipes.values())
            assert error(run(placed.program), wanted) < 2e-5, (node.name, dim, parts)
    return divided


@pytest.mark.parametrize("name", [name for name in COMMON if name in TABLE])
def test_parts_of_common_operators(name: str) -> None:
    assert _sweep(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in TABLE if name not in COMMON])
def test_parts_of_every_operator(name: str) -> None:
    _sweep(name)


REASONS = {
    "softmax": (lambda x: torch.softmax(x, 1), "a softmax runs over it"),
    "sum": (lambda x: x.sum(1), "it is summed over"),
    "layer norm": (lambda x: torch.nn.functional.layer_norm(x, (6, 4)), "it is summed over"),
    "running sum": (lambda x: x.cumsum(1), "a running total is taken along it"),
    "blocks": (lambda x: x.reshape(2, 2, 12), "parts end inside blocks of 3 indices"),
    "reversed": (lambda x: x.flip(1), "the order along it has a meaning"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_mixes_the_axis_is_gathered_with_a_reason(name: str) -> None:
    call, reason = REASONS[name]
    program = captured(call, (2, 6, 4))
    spread, placed = parted(program, "operands_0:1", 3)
    assert [found for _, found in spread.gathered] == [reason]
    assert error(run(placed.program), run(program)) < 1e-12


def test_a_product_along_the_axis_keeps_its_first_factor_split() -> None:
    program = captured(lambda x: x @ x.transpose(1, 2), (2, 6, 4))
    spread, placed = parted(program, "operands_0:1", 2)
    assert spread.gathered == ()
    assert spread.share == 1.0
    assert error(run(placed.program), run(program)) < 1e-12


def test_writes_in_place_stay_with_each_part() -> None:
    def turned(x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out[..., 0::2] = -x[..., 1::2]
        out[..., 1::2] = x[..., 0::2]
        return out * 2

    program = captured(turned, (2, 6, 4))
    spread, placed = parted(program, "operands_0:1", 2)
    assert spread.gathered == ()
    assert error(run(placed.program), run(program)) == 0


def test_writes_across_parts_are_gathered() -> None:
    def shifted(x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[:, 1:] = x[:, :-1]
        return out * 2

    program = captured(shifted, (2, 6, 4))
    _, placed = parted(program, "operands_0:1", 2)
    assert error(run(placed.program), run(program)) == 0
