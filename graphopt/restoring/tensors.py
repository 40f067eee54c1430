"""Smaller tensors in a model of the user's class, and the sizes that torch's own layers keep beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.program import clone_tensor


def put_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model tensors of its own, and torch's layers the sizes that follow.

    Args:
        model: its tensors may be another's: each is replaced.
        tensors: new values by the user's names; a name that the model does not have is a literal of its code. Names of
            one tensor stay tied. Tensors of the model that are not named are cloned.
    """
    memo: dict[int, Tensor] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        for table in (module._parameters, module._buffers, module.__dict__):
            _replace(table, prefix, tensors, memo)
        _add_biases(module, prefix, tensors, memo)
        _resize(module)


def _add_biases(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor], memo: dict[int, Tensor]) -> None:
    """Give a module parameters that it has a name for but none of."""
    for leaf, held in module._parameters.items():
        if held is None and prefix + leaf in tensors:
            module._parameters[leaf] = nn.Parameter(clone_tensor(tensors[prefix + leaf], memo).detach())


def _replace(table: dict[str, Any], prefix: str, tensors: Mapping[str, Tensor], memo: dict[int, Tensor]) -> None:
    for leaf, held in table.items():
        if isinstance(held, Tensor):
            table[leaf] = _made(held, tensors.get(prefix + leaf, held), memo)


def _made(held: Tensor, value: Tensor, memo: dict[int, Tensor]) -> Tensor:
    """A clone of a value in the form of what is held: of its class, with its `requires_grad`."""
    if id(value) not in memo:
        made = clone_tensor(value, memo)
        made.requires_grad_(held.requires_grad and made.is_floating_point())
    return memo[id(value)]


def _resize(module: nn.Module) -> None:
    """Write the sizes that a layer of torch keeps for what its tensors are."""
    found = [sizes(module) for kind, sizes in _SIZES.items() if isinstance(module, kind)]
    for name, size in (item for sizes in found for item in sizes.items()):
        if isinstance(module.__dict__.get(name), int | tuple):
            module.__dict__[name] = size


def _linear(module: Any) -> dict[str, Any]:
    return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}


def _bilinear(module: Any) -> dict[str, Any]:
    out, first, second = module.weight.shape
    return {"out_features": out, "in1_features": first, "in2_features": second}


def _convolution(module: Any) -> dict[str, Any]:
    first, second = module.weight.shape[0], module.weight.shape[1] * module.groups
    out, into = (second, first) if module.transposed else (first, second)
    return {"out_channels": out, "in_channels": into}


def _embedding(module: Any) -> dict[str, Any]:
    return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}


def _batch_norm(module: Any) -> dict[str, Any]:
    known = next((one for one in (module.weight, module.running_mean) if one is not None), None)
    return {} if known is None else {"num_features": known.shape[0]}


def _group_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"num_channels": module.weight.shape[0]}


def _row_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"normalized_shape": tuple(module.weight.shape)}


def _attention(module: Any) -> dict[str, Any]:
    width = module.out_proj.weight.shape[0]
    key = width if module.k_proj_weight is None else module.k_proj_weight.shape[1]
    value = width if module.v_proj_weight is None else module.v_proj_weight.shape[1]
    return {"kdim": key, "vdim": value, "head_dim": module.embed_dim // module.num_heads}


def _recurrent(module: Any) -> dict[str, Any]:
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]
    into, state = module.weight_ih_l0, module.weight_hh_l0
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    projected = state.shape[1] if module.proj_size else 0
    return {"input_size": into.shape[1], "hidden_size": state.shape[0] // gates, "proj_size": projected}


_SIZES: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.Linear: _linear,
    nn.Bilinear: _bilinear,
    torch.nn.modules.conv._ConvNd: _convolution,
    nn.Embedding: _embedding,
    torch.nn.modules.batchnorm._NormBase: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _row_norm,
    nn.RMSNorm: _row_norm,
    nn.RNNBase: _recurrent,
    nn.MultiheadAttention: _attention,
}
