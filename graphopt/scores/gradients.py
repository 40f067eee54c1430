"""Gradients of a loss on calibration data, without a trace on the program or on the user's model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from graphopt.dependency.analysis import TensorKey, tensor_key
from graphopt.errors import PreconditionError
from graphopt.program import Program, clone_tensor
from graphopt.scores.calibration import call_batch, numbered_batches
from graphopt.scores.parameters import require_values, scored_parameters

StopRule = Callable[[float, float], bool]
"""Of a batch's loss and the highest loss so far, this batch's included: whether to stop before this batch."""

SELF_COMPARISON = (
    "the gradient of a model's distance to itself is zero: add noise to the target, as "
    "graphopt.scores.disturbed_self_loss does, or compare with labels"
)


class Calibrated(Protocol):
    """What gradients need of a pass's context."""

    @property
    def calibration(self) -> Iterable[Any] | None:
        """Batches."""

    @property
    def loss(self) -> Callable[[Any, Any], Any] | None:
        """`loss(output, batch)` returns a scalar tensor."""

    @property
    def seed(self) -> int:
        """Seed of every random choice."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of the loss by parameter name; tied names hold the same tensor, the sum over all their uses.

    Attributes:
        sums: Sum over batches, in the parameter's shape and at least float32.
        squares: Sum over batches of the squared gradient; empty where it was not asked for.
        losses: Loss of each batch that entered.
        unreached: Names of parameters the loss does not depend on; their gradients are zero.
    """

    sums: Mapping[str, Tensor]
    squares: Mapping[str, Tensor]
    losses: tuple[float, ...]
    unreached: tuple[str, ...]


def below_share_of_highest(threshold: float) -> StopRule:
    """Return the rule of Diff-Pruning: stop at the first batch whose loss is below a share of the highest so far.

    With batches in ascending order of the timestep, the late steps, whose losses are small and whose gradients are
    noise, stay out.

    Args:
        threshold: The share, in (0, 1).

    Raises:
        PreconditionError: The threshold lies outside.

    References:
        Fang et al., "Structural Pruning for Diffusion Models", NeurIPS 2023, arXiv:2305.10924. The batch that stops
        does not enter, as in the paper; the authors' code adds it.
    """
    if not 0 < threshold < 1:
        raise PreconditionError(f"found threshold {threshold}; wanted a share of the highest loss, in (0, 1)")
    return lambda loss, highest: loss < threshold * highest


def collect_gradients(
    program: Program, context: Calibrated, *, squares: bool = False, stop: StopRule | None = None
) -> Gradients:
    """Sum the gradients of the loss over the calibration batches, with the program in inference form.

    Parameters are read through views of their storage and buffers are cloned, so neither values nor `.grad` of
    anything change; torch's random generators are seeded and put back.

    Args:
        program: The program.
        context: Calibration batches, loss and seed.
        squares: Also sum squared gradients of batches. Give batches of one sample for squares of samples.
        stop: Rule that ends the collection early.

    Raises:
        PreconditionError: No batches or loss; a batch that does not fit the program; a loss that is no scalar, is not
            finite or depends on no parameter; a gradient that is not finite, or zero everywhere.
    """
    if context.loss is None:
        raise PreconditionError("gradients need a loss and found none; pass loss=<function of output and batch>")
    with torch.inference_mode(mode=False), torch.enable_grad():
        total = _Total(program, squares=squares)
        losses: list[float] = []
        with _seeded(total.cuda_devices(), context.seed):
            for number, batch in numbered_batches(context.calibration, "a gradient"):
                loss = _scalar(context.loss(total.run(number, batch), batch), number)
                value = loss.item()
                if stop is not None and stop(value, max([*losses, value])):
                    break
                losses.append(value)
                total.add(loss)
        return total.result(losses)


class _Total:
    """Running sums of gradients; tied parameters share one leaf."""

    def __init__(self, program: Program, *, squares: bool) -> None:
        self._program = program
        parameters = scored_parameters(program)
        for name, parameter in parameters.items():
            require_values(name, parameter, "parameter")
        self._keys = {name: tensor_key(parameter) for name, parameter in parameters.items()}
        self._complex = {name for name, tensor in program.parameters.items() if tensor.is_complex()}
        # Tied names share a key, so the last of them gives the leaf of all.
        self._leaves = {key: parameters[name].detach().requires_grad_() for name, key in self._keys.items()}
        self._sums = {key: torch.zeros_like(leaf, dtype=_wide(leaf)) for key, leaf in self._leaves.items()}
        self._squares = {key: torch.zeros_like(value) for key, value in self._sums.items()} if squares else {}
        self._reached: set[TensorKey] = set()

    def cuda_devices(self) -> list[int]:
        return sorted({leaf.device.index for leaf in self._leaves.values() if leaf.device.type == "cuda"})

    def run(self, number: int, batch: Any) -> Any:
        memo: dict[int, Tensor] = {}
        module = self._program.graph_module
        tensors = {name: clone_tensor(buffer, memo) for name, buffer in module.named_buffers(remove_duplicate=False)}
        leaves = ((name, self._leaves[key]) for name, key in self._keys.items())
        tensors |= {name: torch.view_as_complex(leaf) if name in self._complex else leaf for name, leaf in leaves}
        try:
            return call_batch(lambda *args, **kwargs: functional_call(module, tensors, args, kwargs), batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PreconditionError(
                f"calibration batch {number} does not run: {error}\nwanted arguments like the example inputs the "
                "program was captured with; where the batch holds a target too, use graphopt.scores.Batch"
            ) from error

    def add(self, loss: Tensor) -> None:
        leaves = list(self._leaves.values())
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, leaves, allow_unused=True)
        for key, gradient in zip(self._leaves, gradients, strict=True):
            if gradient is None:
                continue
            self._reached.add(key)
            wide = (gradient.to_dense() if gradient.is_sparse else gradient).to(self._sums[key].dtype)
            self._sums[key] += wide
            if self._squares:
                self._squares[key] += wide.square()

    def result(self, losses: list[float]) -> Gradients:
        if not any(bool(value.any()) for value in self._sums.values()):
            raise PreconditionError(
                f"the gradient of the loss is zero for all {len(self._keys)} parameters over {len(losses)} batches, so "
                f"it ranks nothing; {SELF_COMPARISON}"
            )
        for name, key in self._keys.items():
            require_values(name, self._sums[key], "gradient of")
        return Gradients(
            sums={name: self._sums[key] for name, key in self._keys.items()},
            squares={name: self._squares[key] for name, key in self._keys.items() if self._squares},
            losses=tuple(losses),
            unreached=tuple(name for name, key in self._keys.items() if key not in self._reached),
        )


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _scalar(loss: Any, number: int) -> Tensor:
    """Return the loss of a batch, or say why it is none."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise PreconditionError(f"the loss of batch {number} is {found}; wanted a tensor with one element")
    if not loss.requires_grad:
        raise PreconditionError(
            f"the loss of batch {number} is a constant: it depends on no parameter, or was computed without gradients "
            f"(`.detach()`, `torch.no_grad`, an integer output); {SELF_COMPARISON}"
        )
    if not bool(loss.isfinite().all()):
        raise PreconditionError(f"the loss of batch {number} is {loss.item()}; wanted a finite number")
    return loss.reshape(())


@contextmanager
def _seeded(cuda_devices: list[int], seed: int) -> Iterator[None]:
    """Seed torch's generators of the CPU and of some devices, and put their states back."""
    with torch.random.fork_rng(devices=cuda_devices):
        torch.default_generator.manual_seed(seed)
        for device in cuda_devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
