"""Which tensors of a program are scored, and whether they hold values."""

import torch
from torch import Tensor

from graphopt.dependency.analysis import tensor_key
from graphopt.errors import PreconditionError
from graphopt.program import Program

NORMALISATIONS = frozenset(
    f"aten::{name}" for name in ("batch_norm", "group_norm", "layer_norm", "rms_norm", "instance_norm")
)


def scored_parameters(program: Program) -> dict[str, Tensor]:
    """Return the floating-point parameters by name, tied names included, detached over the same storage.

    Complex ones are given as real ones with a last dimension of two. Buffers, such as running statistics, and tensor
    constants follow the parameters they belong to and are not scored.
    """
    found = program.graph_module.named_parameters(remove_duplicate=False)
    real = ((name, torch.view_as_real(one) if one.is_complex() else one) for name, one in found)
    return {name: parameter.detach() for name, parameter in real if parameter.is_floating_point()}


def normalisation_weights(program: Program) -> frozenset[str]:
    """Return the names of parameters that scale the output of a normalisation, tied names included."""
    parameters = scored_parameters(program)
    keys = set()
    for node in program.nodes():
        schema = getattr(node.target, "_schema", None)
        if schema is None or schema.name not in NORMALISATIONS:
            continue
        position = [argument.name for argument in schema.arguments].index("weight")
        weight = node.kwargs.get("weight", node.args[position] if position < len(node.args) else None)
        name = str(getattr(weight, "target", ""))
        if name in parameters:
            keys.add(tensor_key(parameters[name]))
    return frozenset(name for name, parameter in parameters.items() if tensor_key(parameter) in keys)


def require_values(name: str, tensor: Tensor, what: str) -> None:
    """Check that a tensor holds finite numbers.

    Args:
        name: Name of the parameter.
        tensor: Any shape.
        what: What the tensor is of the parameter, for the message.

    Raises:
        PreconditionError: It is on the meta device, or holds NaN or infinity.
    """
    if tensor.is_meta:
        raise PreconditionError(f"{what} {name} is on the meta device and has no values to score; load the weights")
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        raise PreconditionError(
            f"{what} {name} holds NaN or infinity in {int((~finite).sum())} of {tensor.numel()} elements; "
            "wanted finite numbers"
        )
