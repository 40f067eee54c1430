"""Norms between casts to float32 and back, in the kernels over rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphopt.kernels import find_kernel, row_sums

KERNEL, RUN = find_kernel("stack_apply"), find_kernel("cached_apply")
TARGETS = {
    "stack_apply": "graphopt.kernels.stack_apply:stack_apply",
    "cached_apply": "graphopt.kernels.cached_apply:cached_apply",
}
HALVES = (torch.float16, torch.bfloat16)
WIDE = torch.float32


def arguments(
    norm: str, dtype: torch.dtype, parameters: torch.dtype | None, *, bias: bool = True, width: int = 24
) -> tuple[Any, ...]:
    """Arguments of `stack_apply` with weight and bias of a dtype, where there is one."""
    x, stored = torch.randn(2, 5, width).to(dtype), torch.randn(2, 5, width).to(dtype)
    affine = [None if parameters is None else torch.randn(width).to(parameters) for _ in range(2)]
    scale, shift = torch.randn(2, 1, 2 * width).to(dtype).chunk(2, -1)
    return x, stored, affine[0], affine[1] if bias else None, scale, shift, norm, 1e-6, True


def exact(given: tuple[Any, ...]) -> Tensor:
    wide = [value.double() if isinstance(value, Tensor) else value for value in given]
    found: Tensor = KERNEL.reference(*wide)
    return found


CASES = [
    (norm, dtype, parameters)
    for norm in ("layer", "rms")
    for dtype in (WIDE, *HALVES)
    for parameters in dict.fromkeys((None, WIDE, dtype))
]
INTERPRETED = [case for case in CASES if case[1] != torch.bfloat16]  # which the interpreter cuts off, not rounds


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("parameters", ["wide", "half"])
def test_layer_norm_bit_for_bit(parameters: str, dtype: torch.dtype) -> None:
    given = arguments("layer", dtype, WIDE if parameters == "wide" else dtype)
    x, stored, weight, bias, scale, shift, _, eps, _ = given
    normed = F.layer_norm((x + stored).float(), (24,), weight.float(), bias.float(), eps).to(dtype)
    assert torch.equal(KERNEL.op(*given), normed * (1 + scale) + shift)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("parameters", ["wide", "half"])
def test_rms_norm_bit_for_bit(parameters: str, dtype: torch.dtype) -> None:
    given = arguments("rms", dtype, WIDE if parameters == "wide" else dtype, bias=False)
    x, stored, weight, _, scale, shift, _, eps, _ = given
    total = (x + stored).float()
    normed = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + eps)
    normed = (normed * weight).to(dtype) if parameters == "wide" else normed.to(dtype) * weight
    assert torch.equal(KERNEL.op(*given), normed * (1 + scale) + shift)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("parameters", ["wide", "half"])
def test_cached_apply_has_the_same_norm(parameters: str, dtype: torch.dtype) -> None:
    x, stored, *rest = arguments("rms", dtype, WIDE if parameters == "wide" else dtype)
    assert torch.equal(KERNEL.op(x, stored, *rest), RUN.op(x, [stored], [], *rest)[1])


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_in_float32_the_casts_do_nothing(norm: str) -> None:
    given = arguments(norm, WIDE, WIDE)
    assert torch.equal(KERNEL.op(*given), KERNEL.op(*given[:-1], False))
    assert KERNEL.bytes_before(*given) == KERNEL.bytes_before(*given[:-1], False)


def test_which_dtypes_weight_and_bias_may_have() -> None:
    given = arguments("layer", torch.float16, WIDE)
    assert KERNEL.supports(*given) is None
    assert KERNEL.supports(*given[:-1], False) == "weight or bias is not torch.float16"
    other = (*given[:2], given[2].bfloat16(), *given[3:])
    assert KERNEL.supports(*other) == "weight or bias is not torch.float16 or torch.float32"
    assert RUN.supports(given[0], [given[1]], [], *given[2:]) is None


@pytest.mark.parametrize(("norm", "parameters"), [("layer", None), ("layer", WIDE), ("rms", WIDE)])
def test_bytes_are_those_of_the_operations(norm: str, parameters: torch.dtype | None, moved_bytes: Any) -> None:
    given = arguments(norm, torch.float16, parameters, bias=norm == "layer", width=64)
    size, small = given[0].nbytes, sum(one.nbytes for one in given[2:6] if one is not None)
    total, cast_in, normed, cast_out, modulation = 3, 3, 4, 3, 4
    assert KERNEL.bytes_before(*given) == (total + cast_in + normed + cast_out + modulation) * size + small
    if norm == "layer":
        assert moved_bytes(KERNEL.reference, *given) + small == KERNEL.bytes_before(*given)
    assert KERNEL.bytes_after(*given) == 3 * size + small


def test_a_late_weight_is_an_operation_of_its_own() -> None:
    half, wide = (arguments("rms", torch.float16, dtype, bias=False) for dtype in (torch.float16, WIDE))
    late = KERNEL.bytes_before(*half) - half[2].nbytes
    assert late == KERNEL.bytes_before(*wide) - wide[2].nbytes + 2 * half[0].nbytes


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_opcheck(norm: str, gradient: bool) -> None:
    given = arguments(norm, torch.bfloat16, WIDE)
    leaves = [one.detach().requires_grad_(gradient) if isinstance(one, Tensor) else one for one in given]
    torch.library.opcheck(KERNEL.op, tuple(leaves))


def test_compiles_for_a_gpu_with_wide_parameters(compiled: Any) -> None:
    given = arguments("layer", torch.bfloat16, WIDE, width=1152)
    for keeps in (False, True):
        rest = given[2:-1]
        (launch,) = compiled(
            row_sums, lambda rest=rest, keeps=keeps: row_sums.launch(given[0], [given[1]], [], *rest, keeps=keeps)
        )
        assert launch.arguments["weight"].dtype == WIDE
        assert "ld.global.v4.b32" in launch.ptx


@pytest.fixture(scope="module")
def outcomes(interpreted: Any) -> dict[Any, Any]:
    """Arguments of `stack_apply` and the outcomes of both kernels, by case."""
    torch.manual_seed(0)
    made = [arguments(*case) for case in INTERPRETED]
    sums = interpreted(TARGETS["stack_apply"], made)
    runs = interpreted(TARGETS["cached_apply"], [(x, [stored], [], *rest) for x, stored, *rest in made])
    return dict(zip(INTERPRETED, zip(made, sums, runs, strict=True), strict=True))


@pytest.mark.parametrize("case", INTERPRETED)
@pytest.mark.xdist_group("wide_norm")  # its cases are run once, by one worker
def test_the_kernels_compute_it(case: Any, outcomes: Any, require_close: Any) -> None:
    given, summed, run = outcomes[case]
    assert (summed.launches, run.launches) == (1, 1)
    for found in (summed.outputs[0], run.outputs[1]):
        assert found.dtype == given[0].dtype
        require_close(found, exact(given))


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu(case: Any, require_close: Any) -> None:
    given = tuple(one.cuda() if isinstance(one, Tensor) else one for one in arguments(*case))
    assert KERNEL.supports(*given) is None
    require_close(KERNEL.op(*given), exact(given))
