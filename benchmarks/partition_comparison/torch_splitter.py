"""What torch's own splitter makes of a graph: its partitioner for accelerators, made to use several devices.

It returns one part where the graph fits into the memory of one device, so the memory of each is lowered until it does
not.
Its other ways are no contestants: `torch.distributed.pipelining` and `split_module` cut where the user says, and the
partitioner's search by cost tries every pair of operators again after each that it joins.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.accelerator_partitioner import Partitioner
from torch.fx.experimental.partitioner_utils import Device, PartitionerConfig
from torch.fx.passes.shape_prop import TensorMetadata
from torch.utils import _pytree as pytree

from graphopt.copying import copy_graph
from graphopt.cost import integer_shape
from graphopt.program import Program
from graphopt.values import value_of

TRIES = 24
"""Sizes of memory that are tried, each a twentieth larger than the one before."""


@dataclass(frozen=True)
class TorchSplit:
    """What the partitioner says.

    Attributes:
        names: names of nodes by device; None where no size of memory gave a division that can be run.
        parts_if_it_fits: parts where each device has memory for the whole graph.
    """

    names: tuple[tuple[str, ...], ...] | None
    parts_if_it_fits: int


def torch_split(program: Program, devices: int) -> TorchSplit:
    """Let torch divide a program.

    Args:
        program: the program.
        devices: number of devices.
    """
    whole = sum(_size(node) for node in program.graph_module.graph.nodes)
    alone = _parts(program, devices, 2 * whole)
    share = whole / devices
    for attempt in range(TRIES):
        names = _parts(program, devices, int(share * 1.05**attempt))
        if names is not None and sum(map(bool, names)) > 1:
            return TorchSplit(names, sum(map(bool, alone or ())))
    return TorchSplit(None, sum(map(bool, alone or ())))


def _parts(program: Program, devices: int, memory: int) -> tuple[tuple[str, ...], ...] | None:
    """Names by device; None where it says that it finds no division."""
    duplicate = copy_graph(program.graph_module)
    for node in duplicate.nodes.values():
        node.meta["tensor_meta"] = _metadata(node)
    for original, node in duplicate.nodes.items():
        node.meta["tensor_meta"] = _metadata(original)
    partitioner = _Quiet()
    config = PartitionerConfig([Device(f"device {number}", memory, number) for number in range(devices)])
    module = duplicate.assemble()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            partitioner.partition_graph(module, module, config)
    except RuntimeError:
        return None
    names: list[list[str]] = [[] for _ in range(devices)]
    home = {
        node.name: part.logical_device_ids[0]
        for part in partitioner.partitions
        for node in part.nodes
        if node.op == "call_function"
    }
    for node in program.graph_module.graph.nodes:
        holder = node
        while holder.op == "call_function" and _is_pick(holder):
            holder = holder.all_input_nodes[0]
        if node.op == "call_function" and holder.name in home:
            names[home[holder.name]].append(node.name)
    return tuple(map(tuple, names))


class _Quiet(Partitioner):
    """The partitioner without what comes after the division: modules of the parts are not needed."""

    def do_partition(self) -> fx.GraphModule:
        return self.graph_module

    def dump_dag(self, module_with_submodules: fx.GraphModule) -> Any:
        return None


def _is_pick(node: fx.Node) -> bool:
    """Whether a node picks one of several results."""
    return not isinstance(value_of(node.all_input_nodes[0]), Tensor) if node.all_input_nodes else False


def _tensor(node: fx.Node) -> Tensor | None:
    leaves = [leaf for leaf in pytree.tree_leaves(value_of(node)) if isinstance(leaf, Tensor)]
    return leaves[0] if leaves else None


def _size(node: fx.Node) -> int:
    value = None if node.op == "output" else _tensor(node)
    return 0 if value is None else torch.Size(integer_shape(value)).numel() * value.element_size()


def _metadata(node: fx.Node) -> TensorMetadata:
    """Shape and type as the partitioner wants them; a number counts nothing."""
    value = None if node.op == "output" else _tensor(node)
    shape = torch.Size([0]) if value is None else torch.Size(integer_shape(value))
    dtype = torch.float32 if value is None else value.dtype
    return TensorMetadata(
        shape, dtype, requires_grad=False, stride=(), memory_format=None, is_quantized=False, qparams={}
    )
