"""Running a program and its parts on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.program import Program
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.sharding.axes import read_axes, seeds
from graphopt.rewrite.sharding.sharded import build
from graphopt.rewrite.sharding.spreading import Spread, Spreader
from graphopt.rewrite.sharding.workshop import Workshop


class Call(nn.Module):
    """A function as a module, with raw parameters."""

    def __init__(self, function: Callable[..., Any], parameters: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.function = function
        self.raw = nn.ParameterDict({name: nn.Parameter(value) for name, value in (parameters or {}).items()})

    def forward(self, *operands: Tensor) -> Any:
        """Call the function."""
        return self.function(*operands, **dict(self.raw.items()))


def captured(function: Callable[..., Any], *shapes: tuple[int, ...], **parameters: tuple[int, ...]) -> Program:
    """Capture a function of normal tensors of float64."""
    torch.manual_seed(0)
    module = Call(function, {name: torch.randn(shape, dtype=torch.float64) for name, shape in parameters.items()})
    return graphopt.capture(module, tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes))


def parted(program: Program, axis: str, parts: int, **options: Any) -> tuple[Spread, Placed]:
    """Compute a program in parts, whatever share of its work is divided."""
    displaced = options.get("displaced", False)
    spreader = Spreader(program, parts, scope=options.get("scope"), displaced=displaced)
    spread = spreader.spread(seeds(spreader, read_axes(axis)))
    shop = Workshop(program, spread.layouts, parts, options.get("devices"), displaced=displaced, sampler=0)
    return spread, build(shop, spread)


def error(found: Any, wanted: Any) -> float:
    """Return the largest distance of results, relative to the largest wanted value; numbers must be equal."""
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True)
    return max(_distance(one, other) for one, other in pairs)


def _distance(found: Any, wanted: Any) -> float:
    if not isinstance(wanted, Tensor) or not wanted.is_floating_point():
        same = torch.equal(found, wanted) if isinstance(wanted, Tensor) else found == wanted
        return 0.0 if same else float("inf")
    if found.shape != wanted.shape:
        return float("inf")
    same = torch.nan_to_num(found), torch.nan_to_num(wanted)
    scale = same[1].abs().max().clamp(min=1e-6) if wanted.numel() else torch.ones(())
    return float((same[0] - same[1]).abs().max() / scale) if wanted.numel() else 0.0


def run(program: Program, *args: Any) -> Any:
    """Run a program, on its example inputs by default."""
    with torch.no_grad():
        return program(*args) if args else program(*program.args, **program.kwargs)
