"""A module that is kept whole: one operator that runs the user's own code over the program's tensors.

The operator takes tensors and gives tensors. What its code asks about their data on the way is nobody's business, as
long as the sizes of what it gives follow from the sizes of what it takes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphopt.parts import apart, followed_by_autograd, part_of

SERIAL = "serial"
"""The argument that says which part of this process is meant; it is another one in every capture."""


def is_whole(node: fx.Node) -> bool:
    """Tell whether a node runs a module that is kept whole."""
    return node.target is opaque._opoverload


def whole_names(nodes: Iterable[fx.Node]) -> list[str]:
    """Return the names of the modules that some nodes run whole."""
    return [str(node.args[2]) for node in nodes if is_whole(node)]


def same_anywhere(node: fx.Node) -> dict[str, Any]:
    """Return the named arguments of a node that are the same in every process."""
    return {key: value for key, value in node.kwargs.items() if key != SERIAL or not is_whole(node)}


@torch.library.custom_op("graphopt::opaque", mutates_args=())
def opaque(inputs: Sequence[Tensor], tensors: Sequence[Tensor], name: str, *, serial: int) -> list[Tensor]:
    """Run a module that is kept whole.

    Args:
        inputs: The tensors among its inputs.
        tensors: Its parameters and buffers.
        name: Its dotted name.
        serial: Its number in this process.
    """
    part = part_of(serial, name)
    with apart(), followed_by_autograd():
        results = [result.detach() for result in part.results(inputs, tensors)]
    return _in_memory_of_their_own(results, (*inputs, *tensors))


@opaque.register_fake
def _(inputs: Sequence[Tensor], tensors: Sequence[Tensor], name: str, *, serial: int) -> list[Tensor]:
    device = next((tensor.device for tensor in (*inputs, *tensors)), torch.device("cpu"))
    found = part_of(serial, name).layouts(inputs, tensors)
    return [torch.empty_strided(*layout[:2], dtype=layout[2], device=device) for layout in found]


@torch.library.custom_op("graphopt::opaque_gradients", mutates_args=())
def opaque_gradients(
    gradients: Sequence[Tensor], inputs: Sequence[Tensor], tensors: Sequence[Tensor], name: str, *, serial: int
) -> list[Tensor]:
    """Return the gradients of inputs and tensors of a module that is kept whole, by running it once more.

    Args:
        gradients: Of what it gave.
        inputs: The tensors among its inputs.
        tensors: Its parameters and buffers.
        name: Its dotted name.
        serial: Its number in this process.
    """
    part = part_of(serial, name)
    with apart(), followed_by_autograd(), torch.enable_grad():
        given = [_leaf(tensor) for tensor in (*inputs, *tensors)]
        results = part.results(given[: len(inputs)], given[len(inputs) :])
        pairs = [pair for pair in zip(results, gradients, strict=True) if pair[0].requires_grad]
        wanted = [tensor for tensor in given if tensor.requires_grad]
        found = _gradients(pairs, wanted)
    rest = iter(found)
    every = [next(rest) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in given]
    return _in_memory_of_their_own(every, (*gradients, *inputs, *tensors))


@opaque_gradients.register_fake
def _(
    gradients: Sequence[Tensor], inputs: Sequence[Tensor], tensors: Sequence[Tensor], name: str, *, serial: int
) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in (*inputs, *tensors)]


def _gradients(pairs: Sequence[tuple[Tensor, Tensor]], wanted: Sequence[Tensor]) -> list[Tensor]:
    if not pairs or not wanted:
        return [torch.zeros_like(tensor) for tensor in wanted]
    results, gradients = zip(*pairs, strict=True)
    return list(torch.autograd.grad(results, wanted, gradients, materialize_grads=True))


def _setup(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    taken, tensors, ctx.name = inputs
    ctx.serial, ctx.count = keyword_only_inputs[SERIAL], len(taken)
    ctx.save_for_backward(*taken, *tensors)


def _backward(context: Any, gradients: Sequence[Tensor]) -> Any:
    saved = context.saved_tensors
    taken, tensors = list(saved[: context.count]), list(saved[context.count :])
    found = opaque_gradients(list(gradients), taken, tensors, context.name, serial=context.serial)
    real = [
        gradient if tensor.is_floating_point() or tensor.is_complex() else None
        for gradient, tensor in zip(found, saved, strict=True)
    ]
    return real[: context.count], real[context.count :], None


opaque.register_autograd(_backward, setup_context=_setup)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point() or tensor.is_complex())


def _in_memory_of_their_own(results: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor]:
    """Return results, copied where they lie in memory that is somebody else's already."""
    taken = {tensor.untyped_storage()._cdata for tensor in given}
    found = []
    for result in results:
        place = result.untyped_storage()._cdata
        found.append(result.clone() if place in taken else result)
        taken.add(place)
    return found
