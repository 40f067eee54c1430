"""Layouts of results that need no computing: the commonest operators on contiguous tensors of one type.

Whatever is not said here is left to torch, whose own answer is the same and takes a hundred times as long.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

aten = torch.ops.aten

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Sizes, strides and type of a tensor."""


PACKED_OPERATORS = frozenset(
    (
        aten._pack_padded_sequence.default,
        aten._pad_packed_sequence.default,
        aten.lstm.data,
        aten.gru.data,
        aten.rnn_tanh.data,
        aten.rnn_relu.data,
    )
)
"""Operators on packed sequences."""


def quick_layout(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Return the layout of the new tensor that an operator gives, None where torch has to be asked."""
    rule = _RULES.get(function)
    first = args[0] if args else None
    if isinstance(first, list | tuple) and first:
        first = first[0]
    return None if rule is None or not _is_plain(first) else rule(args, kwargs)


def packed_layouts(function: Any, args: tuple[Any, ...]) -> list[tuple[Layout, torch.device]] | None:
    """Return the layouts of what an operator on packed sequences gives, with the devices; None for any other one.

    How many rows are packed the data decide: they are counted as if every sequence were as long as the longest.
    """
    if function not in PACKED_OPERATORS:
        return None
    first, cpu = args[0], torch.device("cpu")
    if function is aten._pack_padded_sequence.default:
        rows, steps = first.shape[0] * first.shape[1], first.shape[1 if args[2] else 0]
        data = _contiguous((rows, *first.shape[2:]), first.dtype)
        return [(data, first.device), (_contiguous((steps,), torch.int64), cpu)]
    if function is aten._pad_packed_sequence.default:
        count, steps = first.shape[0] // args[1].shape[0], max(args[4], args[1].shape[0])
        sizes, strides, dtype = _contiguous((steps, count, *first.shape[1:]), first.dtype)
        if args[2]:
            sizes, strides = ((value[1], value[0], *value[2:]) for value in (sizes, strides))
        return [((sizes, strides, dtype), first.device), (_contiguous((count,), torch.int64), cpu)]
    states = args[2] if isinstance(args[2], list | tuple) else [args[2]]
    width = states[0].shape[-1] * (2 if args[8] else 1)
    shapes = [(first.shape[0], width), *(tuple(state.shape) for state in states)]
    return [(_contiguous(shape, first.dtype), first.device) for shape in shapes]


def goes_direct(function: Any, tensors: Sequence[torch.Tensor]) -> bool:
    """Tell whether torch's C++ alone gives an operator's layout on tensors without memory, as torch's Python does."""
    if len({tensor.device for tensor in tensors}) != 1:
        return False
    if function is aten.einsum.default:  # along a dimension of one element, they differ about the step
        return all(min(tensor.shape, default=1) > 1 for tensor in tensors)
    return function in DIRECT


def _is_plain(tensor: Any) -> bool:
    """Tell whether a value is a tensor of floats in the usual order, also as its dimensions of one element say it."""
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or not tensor.is_contiguous():
        return False
    sizes = tuple(tensor.shape)
    return 1 not in sizes or tensor.stride() == _contiguous(sizes, tensor.dtype)[1]


def _fits(tensor: Any, like: torch.Tensor) -> bool:
    """Tell whether an operand is plain and of the same type and device as another, or not there."""
    return tensor is None or (_is_plain(tensor) and tensor.dtype == like.dtype and tensor.device == like.device)


def _like(tensor: torch.Tensor) -> Layout:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _contiguous(sizes: tuple[int, ...], dtype: torch.dtype) -> Layout:
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    return sizes, tuple(reversed(strides)), dtype


def _same(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """One operand decides; further ones are numbers."""
    operands = (*args[1:], *kwargs.values())
    return None if any(isinstance(operand, torch.Tensor) for operand in operands) else _like(args[0])


def _binary(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Two operands, of which one has all the sizes of the result."""
    left: torch.Tensor = args[0]
    right: Any = args[1] if len(args) > 1 else kwargs.get("other")
    if isinstance(right, int | float):
        return _like(left)
    if right is None or not _fits(right, left):
        return None
    larger, smaller = (left, right) if left.ndim >= right.ndim and left.numel() >= right.numel() else (right, left)
    sizes = zip(reversed(larger.shape), reversed(smaller.shape), strict=False)
    fits = larger.ndim >= smaller.ndim and all(size in (whole, 1) for whole, size in sizes)
    return _like(larger) if fits and larger.ndim else None


def _layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Statistics over the last dimensions, of whose sizes the affine tensors are."""
    shape = tuple(args[1])
    affine = [item for item in (*args[2:], *kwargs.values()) if isinstance(item, torch.Tensor)]
    legal = tuple(args[0].shape[-len(shape) :]) == shape and all(tuple(item.shape) == shape for item in affine)
    return _like(args[0]) if legal and all(_fits(item, args[0]) for item in affine) else None


def _channel_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Statistics and affine tensors have one number a channel, dimension 1."""
    tensor = args[0]
    channels = [item for item in (*args[1:], *kwargs.values()) if isinstance(item, torch.Tensor)]
    legal = tensor.ndim > 1 and all(tuple(item.shape) == (tensor.shape[1],) for item in channels)
    return _like(tensor) if legal and all(_fits(item, tensor) for item in channels) else None


def _group_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    divides = args[0].ndim > 1 and args[1] > 0 and args[0].shape[1] % args[1] == 0
    return _channel_norm(args, kwargs) if divides else None


def _batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    return None if len(args) < 6 or args[5] else _channel_norm(args, kwargs)


def _softmax(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    dtype = args[2] if len(args) > 2 else kwargs.get("dtype")
    return _like(args[0]) if dtype in (None, args[0].dtype) else None


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    tensor, weight = args[0], args[1]
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    legal = tensor.ndim > 1 and weight.ndim == 2 and tensor.shape[-1] == weight.shape[1]
    if not legal or not _fits(weight, tensor) or not _fits(bias, tensor):
        return None
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        return None
    return _contiguous((*tensor.shape[:-1], weight.shape[0]), tensor.dtype)


def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Tensors in the usual order: channels, then the sizes that the kernel goes over."""
    given = (
        dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False)) | kwargs
    )
    tensor, weight, bias, groups = given["input"], given["weight"], given.get("bias"), given.get("groups", 1)
    moving = tensor.ndim - 2
    legal = moving > 0 and weight.ndim == tensor.ndim and tensor.shape[1] == weight.shape[1] * groups
    if not legal or weight.shape[0] % groups or not _fits(weight, tensor) or not _fits(bias, tensor):
        return None
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        return None
    steps = [
        _spread(given.get(name, default), moving) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    ]
    sizes = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(tensor.shape[2:], weight.shape[2:], *steps, strict=True)
    ]
    return _contiguous((tensor.shape[0], weight.shape[0], *sizes), tensor.dtype) if min(sizes) > 0 else None


def _joined(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Tensors of the same sizes but for one dimension, one after the other."""
    parts = args[0]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    first = parts[0]
    alike = all(_fits(part, first) and part.ndim == first.ndim for part in parts)
    if not alike or not -first.ndim <= dim < first.ndim:
        return None
    sizes = [list(part.shape) for part in parts]
    length = sum(size.pop(dim) for size in sizes)
    if any(size != sizes[0] for size in sizes) or min(first.shape) < 2:
        return None
    whole = [*first.shape]
    whole[dim] = length
    return _contiguous(tuple(whole), first.dtype)


def _resampled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Pictures of the sizes that are asked for, or of a share of theirs."""
    tensor, sizes, factors = args[0], args[1] if len(args) > 1 else None, args[-1]
    if kwargs or tensor.ndim < 3 or min(tensor.shape) < 2 or len(args) < 3 or (sizes is None) == (factors is None):
        return None
    if sizes is None:
        sizes = [int(size * factor) for size, factor in zip(tensor.shape[2:], factors, strict=True)]
    return _contiguous((*tensor.shape[:2], *sizes), tensor.dtype) if min(sizes) > 0 else None


def _spread(setting: Any, moving: int) -> list[int]:
    settings = list(setting) if isinstance(setting, list | tuple) else [setting]
    return settings * moving if len(settings) == 1 else settings


Rule = Callable[[tuple[Any, ...], dict[str, Any]], Layout | None]
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.relu.default,
            aten.gelu.default,
            aten.silu.default,
            aten.sigmoid.default,
            aten.tanh.default,
            aten.hardswish.default,
            aten.hardsigmoid.default,
            aten.hardtanh.default,
            aten.leaky_relu.default,
            aten.elu.default,
            aten.softplus.default,
            aten.mish.default,
            aten.exp.default,
            aten.log.default,
            aten.sin.default,
            aten.cos.default,
            aten.sqrt.default,
            aten.rsqrt.default,
            aten.neg.default,
            aten.abs.default,
            aten.clamp.default,
            aten.clamp_min.default,
            aten.clamp_max.default,
            aten.reciprocal.default,
            aten.square.default,
        ),
        _same,
    ),
    aten.pow.Tensor_Scalar: _same,
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor), _binary),
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _convolution),
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.batch_norm.default: _batch_norm,
    aten.softmax.int: _softmax,
    aten.linear.default: _linear,
    aten.cat.default: _joined,
    **dict.fromkeys(
        (
            aten.upsample_nearest2d.vec,
            aten._upsample_nearest_exact2d.vec,
            aten.upsample_bilinear2d.vec,
            aten.upsample_bicubic2d.vec,
        ),
        _resampled,
    ),
}

DIRECT = frozenset(
    overload
    for packet in (
        aten.view,
        aten.reshape,
        aten.transpose,
        aten.permute,
        aten.slice,
        aten.select,
        aten.narrow,
        aten.unsqueeze,
        aten.squeeze,
        aten.flatten,
        aten.unflatten,
        aten.expand,
        aten.split,
        aten.split_with_sizes,
        aten.chunk,
        aten.unbind,
        aten.movedim,
        aten.t,
        aten.contiguous,
        aten.clone,
        aten.matmul,
        aten.bmm,
        aten.baddbmm,
        aten.embedding,
        aten.avg_pool2d,
        aten.max_pool2d,
        aten.pixel_shuffle,
        aten.pixel_unshuffle,
        aten.gather,
        aten.linear,
        aten.batch_norm,
        aten.layer_norm,
        aten.rms_norm,
        aten.softmax,
        aten.mean,
        aten.sum,
        aten.linalg_vector_norm,
        aten.adaptive_avg_pool2d,
        aten.upsample_bilinear2d,
        aten.upsample_bicubic2d,
        aten.cat,
        aten.stack,
        aten.pad,
        aten.constant_pad_nd,
        aten.repeat,
        aten.add,
        aten.sub,
        aten.mul,
        aten.div,
        aten.pow,
        aten.neg,
        aten.relu,
        aten.gelu,
        aten.silu,
        aten.prelu,
        aten.clamp_min,
    )
    for overload in (getattr(packet, name) for name in packet.overloads())
    if not overload._schema.is_mutable
) | {aten.where.self, aten.repeat_interleave.self_int}
"""Operators that follow nothing but their operands' layouts, and that torch has in C++ for tensors without memory."""
