"""A loss that needs no labels: the distance to the model's own disturbed output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from graphopt.errors import PreconditionError
from graphopt.program import Program
from graphopt.scores.calibration import call_batch


def disturbed_self_loss(teacher: Program, scale: float = 0.01) -> Callable[[Any, Any], Tensor]:
    """Return ``loss(output, batch)``: mean squared distance to the teacher's output plus Gaussian noise.

    Of a model against itself the distance without noise, and with it the gradient, is zero; the noise gives each
    output a direction, so that gradients say what the output depends on. The noise comes from torch's generator,
    which `collect_gradients` seeds. Floating-point outputs count, their means summed where there are several.

    Args:
        teacher: The program whose outputs are the target, usually the one to be pruned, before any pruning.
        scale: Standard deviation of the noise, in units of the output.

    Raises:
        PreconditionError: The scale is not above 0.

    References:
        Chen et al., "SlimSAM: 0.1% Data Makes Segment Anything Slim", NeurIPS 2024, arXiv:2312.05284 (disturbed
        Taylor importance).
    """
    if not scale > 0:
        raise PreconditionError(f"found noise of scale {scale}; wanted above 0, for without noise the gradient is zero")

    def loss(output: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            targets = _floating(call_batch(teacher, batch))
        terms = [
            torch.nn.functional.mse_loss(found, target + scale * torch.randn_like(target))
            for found, target in zip(_floating(output), targets, strict=True)
        ]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    return loss


def _floating(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
