"""The short ways to a layout against torch's own answers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.evaluation import Evaluator
from graphopt.layouts import DIRECT, quick_layout

aten = torch.ops.aten
IMAGE, WEIGHT, CHANNELS = torch.randn(2, 8, 6, 6), torch.randn(4, 8, 3, 3), torch.randn(8)
TOKENS, MATRIX, WIDTH = torch.randn(2, 5, 8), torch.randn(3, 8), torch.randn(8)
LAST = IMAGE.to(memory_format=torch.channels_last)
TURNED, POINT = torch.randn(2, 6, 8, 6).transpose(1, 2), torch.randn(2, 8, 1, 1)

CALLS: dict[str, tuple[Any, ...]] = {
    "relu": (aten.relu.default, IMAGE),
    "relu of channels last": (aten.relu.default, LAST),
    "relu in place": (aten.relu_.default, IMAGE),
    "power": (aten.pow.Tensor_Scalar, IMAGE, 2),
    "sum": (aten.add.Tensor, IMAGE, IMAGE),
    "sum with a vector": (aten.add.Tensor, TOKENS, WIDTH),
    "sum of a vector and more": (aten.add.Tensor, WIDTH, TOKENS),
    "sum that widens both": (aten.mul.Tensor, TOKENS[:, :1], TOKENS[:1]),
    "sum with a number": (aten.mul.Tensor, TOKENS, 3),
    "sum of two types": (aten.add.Tensor, TOKENS, torch.ones(8, dtype=torch.float64)),
    "quotient of integers": (aten.div.Tensor, torch.ones(3, dtype=torch.int64), 2),
    "layer norm": (aten.layer_norm.default, TOKENS, [8], WIDTH, WIDTH),
    "layer norm of a transposed tensor": (aten.layer_norm.default, TOKENS.transpose(0, 1), [8], WIDTH, WIDTH),
    "group norm": (aten.group_norm.default, IMAGE, 4, CHANNELS, CHANNELS),
    "batch norm": (aten.batch_norm.default, IMAGE, CHANNELS, CHANNELS, CHANNELS, CHANNELS, False, 0.1, 1e-5, False),
    "softmax": (aten.softmax.int, TOKENS, -1),
    "softmax to double": (aten.softmax.int, TOKENS, -1, torch.float64),
    "linear": (aten.linear.default, TOKENS, MATRIX, torch.randn(3)),
    "linear of a vector": (aten.linear.default, WIDTH, MATRIX),
    "linear of a transposed tensor": (aten.linear.default, TOKENS.transpose(0, 1), MATRIX),
    "convolution": (aten.conv2d.default, IMAGE, WEIGHT, None, [1, 1], [1, 1]),
    "convolution with defaults": (aten.conv2d.default, IMAGE, WEIGHT, torch.randn(4)),
    "convolution with steps": (aten.conv2d.default, IMAGE, WEIGHT, None, [2, 1], [2, 1], [2, 1]),
    "convolution of points": (aten.conv2d.default, IMAGE, torch.randn(4, 8, 1, 1)),
    "convolution of one channel": (aten.conv2d.default, IMAGE[:, :1].contiguous(), torch.randn(4, 1, 1, 1)),
    "convolution of one point": (aten.conv2d.default, IMAGE[:, :, :1, :1].contiguous(), torch.randn(4, 8, 1, 1)),
    "convolution in groups": (aten.conv2d.default, IMAGE, torch.randn(4, 2, 3, 3), None, [1], [1], [1], 4),
    "convolution of channels last": (aten.conv2d.default, LAST, WEIGHT),
    "convolution of lines": (aten.conv1d.default, TOKENS, torch.randn(4, 5, 3), None, [1], [1]),
    "convolution of space": (aten.conv3d.default, IMAGE[:, :, None], torch.randn(4, 8, 1, 3, 3)),
    "transposition": (aten.transpose.int, IMAGE, 1, 2),
    "slice of a slice": (aten.slice.Tensor, IMAGE[:, 1:], 1, 1, 4),
    "parts": (aten.split.Tensor, TOKENS, 3, 2),
    "view": (aten.view.default, TOKENS, [2, 40]),
    "reshape with a copy": (aten.reshape.default, TOKENS.transpose(1, 2), [2, 40]),
    "reshape without": (aten.reshape.default, TOKENS, [10, 8]),
    "contiguous as it is": (aten.contiguous.default, TOKENS),
    "product": (aten.matmul.default, TOKENS, TOKENS.transpose(1, 2)),
    "attention": (aten.scaled_dot_product_attention.default, *[torch.randn(2, 4, 5, 8)] * 3),
    "lookup": (aten.embedding.default, MATRIX, torch.ones(2, 3, dtype=torch.int64)),
    "sequence": (aten.arange.default, 5),
    "sum of a picture with itself turned": (aten.add.Tensor, IMAGE, IMAGE.transpose(2, 3)),
    "sum of points in two orders": (aten.add.Tensor, POINT, POINT.to(memory_format=torch.channels_last)),
    "softmax of a point, channels last": (aten.softmax.int, POINT.to(memory_format=torch.channels_last), 1),
    "batch norm of channels last": (aten.batch_norm.default, LAST, *[CHANNELS] * 4, False, 0.1, 1e-5, False),
    "batch norm of a turned picture": (aten.batch_norm.default, TURNED, *[CHANNELS] * 4, False, 0.1, 1e-5, False),
    "root mean square norm": (aten.rms_norm.default, TOKENS.transpose(0, 1), [8], WIDTH),
    "mean": (aten.mean.dim, TURNED, [2, 3]),
    "vector norm": (aten.linalg_vector_norm.default, TURNED, 2.0, [1], True),
    "pooling": (aten.adaptive_avg_pool2d.default, LAST, [3, 3]),
    "larger": (aten.upsample_bilinear2d.vec, IMAGE, [12, 9], False, None),
    "larger by a share": (aten.upsample_bicubic2d.vec, IMAGE, None, False, [2.0, 1.5]),
    "larger by copies": (aten.upsample_nearest2d.vec, IMAGE, None, [2.0, 2.0]),
    "larger, channels last": (aten.upsample_bilinear2d.vec, LAST, [12, 9], False, None),
    "larger, of one channel": (aten.upsample_nearest2d.vec, IMAGE[:, :1].contiguous(), [12, 9], None),
    "joined": (aten.cat.default, [IMAGE, IMAGE], -3),
    "joined, of two widths": (aten.cat.default, [TOKENS, TOKENS[..., :3].contiguous()], -1),
    "joined with a turned picture": (aten.cat.default, [IMAGE, TURNED], 1),
    "joined, of two types": (aten.cat.default, [TOKENS, TOKENS.double()], 1),
    "joined with nothing": (aten.cat.default, [TOKENS, torch.empty(0)], 1),
    "stacked": (aten.stack.default, [TURNED, TURNED], 1),
    "padded": (aten.pad.default, TURNED, [1, 1, 0, 2]),
    "repeated": (aten.repeat_interleave.self_int, TURNED, 2, 1),
    "chosen": (aten.where.self, IMAGE > 0, IMAGE, TURNED),
    "sum over labels": (aten.einsum.default, "bnd,bmd->bnm", [TOKENS, TOKENS]),
    "sum over labels, of one row": (aten.einsum.default, "bnd,bmd->bnm", [TOKENS[:1], TOKENS[:1]]),
}


def layouts(result: Any, operands: list[Tensor]) -> list[Any]:
    storages = [operand.untyped_storage()._cdata for operand in operands]
    found = []
    for leaf in pytree.tree_leaves(result):
        storage = leaf.untyped_storage()._cdata
        place = storages.index(storage) if storage in storages else None
        found.append((tuple(leaf.shape), leaf.stride(), leaf.storage_offset(), leaf.dtype, leaf.device, place))
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_layout_is_torchs_own_the_first_time_and_the_second(name: str) -> None:
    function, *args = CALLS[name]
    evaluator = Evaluator()
    fakes = tuple(pytree.tree_map_only(Tensor, evaluator.shared_stand_in, args))
    operands = [leaf for leaf in pytree.tree_leaves(fakes) if isinstance(leaf, Tensor)]
    with evaluator, torch.no_grad():
        wanted = layouts(function(*fakes), operands)
        assert layouts(evaluator(function, fakes, {}), operands) == wanted
        assert layouts(evaluator(function, fakes, {}), operands) == wanted


@pytest.mark.parametrize(
    "call",
    [
        lambda: (aten.linear.default, TOKENS, torch.randn(3, 7)),
        lambda: (aten.conv2d.default, IMAGE, torch.randn(4, 7, 3, 3)),
        lambda: (aten.conv2d.default, IMAGE, torch.randn(4, 8, 7, 7)),
        lambda: (aten.linear.default, TOKENS, MATRIX, torch.randn(4)),
        lambda: (aten.layer_norm.default, TOKENS, [7], None, None),
        lambda: (aten.layer_norm.default, TOKENS, [8], torch.randn(7), None),
        lambda: (aten.group_norm.default, IMAGE, 3, None, None),
        lambda: (aten.batch_norm.default, IMAGE, *[torch.randn(7)] * 4, False, 0.1, 1e-5, False),
        lambda: (aten.add.Tensor, TOKENS, torch.randn(7)),
        lambda: (aten.cat.default, [TOKENS, torch.randn(2, 6, 7)], 1),
        lambda: (aten.cat.default, [TOKENS, TOKENS], 3),
    ],
)
def test_what_does_not_fit_is_left_to_torch_and_raises(call: Callable[[], tuple[Any, ...]]) -> None:
    function, *args = call()
    assert quick_layout(function, tuple(args), {}) is None
    evaluator = Evaluator()
    fakes = tuple(pytree.tree_map_only(Tensor, evaluator.shared_stand_in, args))
    with evaluator, pytest.raises((RuntimeError, ValueError, IndexError)):
        evaluator(function, fakes, {})


def test_tensors_over_one_memory_stay_so() -> None:
    evaluator = Evaluator()
    table = torch.randn(4, 6)
    whole, part = evaluator.shared_stand_in(table), evaluator.shared_stand_in(table[1:, 2:])
    assert whole.untyped_storage()._cdata == part.untyped_storage()._cdata
    assert (tuple(part.shape), part.stride(), part.storage_offset()) == ((3, 4), (6, 1), 8)
    assert evaluator.shared_stand_in(table) is whole


def test_values_are_never_read() -> None:
    evaluator = Evaluator()
    with evaluator, pytest.raises(RuntimeError, match="_local_scalar_dense"):
        evaluator(aten.item.default, (evaluator.shared_stand_in(torch.ones(())),), {})


def test_nothing_that_writes_goes_the_direct_way() -> None:
    assert not [overload for overload in DIRECT if overload._schema.is_mutable]
