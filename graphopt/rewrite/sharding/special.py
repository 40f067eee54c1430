"""Operators that are not computed index by index along an axis, and yet in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphopt.rewrite.sharding.attention import attention
from graphopt.rewrite.sharding.joining import concatenation, cut, selection
from graphopt.rewrite.sharding.padding import padding
from graphopt.rewrite.sharding.question import Answer
from graphopt.rewrite.sharding.statistics import group_norm
from graphopt.rewrite.sharding.upsampling import nearest, transposed
from graphopt.rewrite.sharding.windows import convolution, pooling

aten = torch.ops.aten

ANSWERS: Mapping[Any, Answer] = {
    aten.scaled_dot_product_attention: attention,
    aten.cat: concatenation,
    aten.select: selection,
    aten.slice: cut,
    aten.conv1d: convolution,
    aten.conv2d: convolution,
    aten.conv3d: convolution,
    aten.convolution: convolution,
    aten.conv_transpose1d: transposed,
    aten.conv_transpose2d: transposed,
    aten.conv_transpose3d: transposed,
    aten.max_pool1d: pooling,
    aten.max_pool2d: pooling,
    aten.max_pool3d: pooling,
    aten.avg_pool1d: pooling,
    aten.avg_pool2d: pooling,
    aten.avg_pool3d: pooling,
    aten.pad: padding,
    aten.constant_pad_nd: padding,
    aten.upsample_nearest1d: nearest,
    aten.upsample_nearest2d: nearest,
    aten.upsample_nearest3d: nearest,
    aten.group_norm: group_norm,
}
"""By operator, what answers in place of the coupling rule alone."""
