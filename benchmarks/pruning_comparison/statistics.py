"""Statistics over pruned channels, made separable while a model runs.

A mean over 64 channels of which 32 are zero is not the mean over the other 32: where a normalisation runs over what
was removed, no tool can make the pruned model equal the masked one. So such calls, and only such, are replaced on both
sides by maps that treat every channel by itself; what is left to compare is what the tools decide. A normalisation
becomes a division by one number, found in the first of the runs, so that deep models stay finite.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

Call = tuple[str, int]
"""Operator of a statistic, and the number of elements it runs over."""


class UnalignedError(RuntimeError):
    """Two runs do not have the same statistics in the same order, so they cannot be compared."""


class Statistics(TorchDispatchMode):
    """Watch the statistics of a run, and make some separable.

    Args:
        touched: number of the call -> number of elements that the original's statistic runs over.
        scales: number of the call -> what it divides by; filled by the first run, shared with the others.

    Attributes:
        calls: what was seen, in order.
    """

    def __init__(self, touched: Mapping[int, int] | None = None, scales: dict[int, float] | None = None) -> None:
        super().__init__()
        self.touched = {} if touched is None else touched
        self.scales = {} if scales is None else scales
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func not in _TWINS:
            return func(*args, **kwargs)
        size, twin = _TWINS[func]
        named = _named(func, args, kwargs)
        number = len(self.calls)
        self.calls.append((str(func), size(named)))
        if number not in self.touched:
            return func(*args, **kwargs)
        if "input" in named:
            scale = self.scales.setdefault(number, float(named["input"].double().square().mean().sqrt()) or 1.0)
            named["input"] = named["input"] / scale
        return twin(named, self.touched[number])


def touched(original: Sequence[Call], pruned: Sequence[Call]) -> dict[int, int]:
    """Return the calls that run over fewer elements in the pruned model, with the original's number of elements.

    Raises:
        UnalignedError: The runs differ in more than these numbers.
    """
    if [name for name, _ in original] != [name for name, _ in pruned]:
        raise UnalignedError(f"{len(original)} statistics before pruning, {len(pruned)} after, or others")
    pairs = zip(original, pruned, strict=True)
    return {number: size for number, ((_, size), (_, left)) in enumerate(pairs) if size != left}


def _named(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


# --------------------------------------------------------------------- sizes


def _normalised(call: Mapping[str, Any]) -> int:
    return math.prod(call["normalized_shape"])


def _group(call: Mapping[str, Any]) -> int:
    return int(call["C"]) // int(call["group"]) * int(call["HxW"])


def _reduced(call: Mapping[str, Any]) -> int:
    value, dims = call["self"], call.get("dim")
    return math.prod(value.shape[dim] for dim in dims) if dims else value.numel()


# --------------------------------------------------------------------- twins


def _scaled(value: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


def _layer_norm(call: Mapping[str, Any], _: int) -> tuple[Tensor, ...]:
    value = call["input"]
    unread = value.new_zeros(())
    return _scaled(value, call.get("weight"), call.get("bias")), unread, unread


def _rms_norm(call: Mapping[str, Any], _: int) -> tuple[Tensor, ...]:
    value = call["input"]
    return _scaled(value, call.get("weight"), None), value.new_zeros(())


def _group_norm(call: Mapping[str, Any], _: int) -> tuple[Tensor, ...]:
    value = call["input"]
    shape = (1, -1, *(1,) * (value.ndim - 2))
    weight, bias = (None if call[name] is None else call[name].reshape(shape) for name in ("weight", "bias"))
    unread = value.new_zeros(())
    return _scaled(value, weight, bias), unread, unread


def _mean(call: Mapping[str, Any], count: int) -> Tensor:
    return _sum(call["self"], call) / count


def _square(call: Mapping[str, Any], count: int) -> Tensor:
    return _sum(call["self"].square(), call) / count


def _square_and_mean(call: Mapping[str, Any], count: int) -> tuple[Tensor, Tensor]:
    return _square(call, count), _mean(call, count)


def _sum(value: Tensor, call: Mapping[str, Any]) -> Tensor:
    dims = call.get("dim") or list(range(value.ndim))
    return value.sum(dims, keepdim=bool(call.get("keepdim", False)))


_TWINS: dict[Any, tuple[Callable[[Mapping[str, Any]], int], Callable[[Mapping[str, Any], int], Any]]] = {
    aten.native_layer_norm.default: (_normalised, _layer_norm),
    aten._fused_rms_norm.default: (_normalised, _rms_norm),
    aten.native_group_norm.default: (_group, _group_norm),
    aten.mean.default: (_reduced, _mean),
    aten.mean.dim: (_reduced, _mean),
    aten.var.correction: (_reduced, _square),
    aten.std.correction: (_reduced, _square),
    aten.var_mean.correction: (_reduced, _square_and_mean),
}
