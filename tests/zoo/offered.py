"""What share of the parameters that a person would prune graphopt offers.

A person counts every channel of every linear, convolution and norm layer that some layer produces and that is neither
an input nor an output of the model. The layers are told by their modules, not by the dependency graph, so that what the
graph overlooks counts.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import BoolArray, occurrences
from graphopt.dependency.terms import Dim, Leaf, leaves
from graphopt.program import Program

_OUTPUT = "an output of the model"
_ENDS = (
    "an input of the model",
    _OUTPUT,
    "a vocabulary",
    "no operator reads it",
    "no parameter produces it",
)
"""Reasons that a person would give as well; a head that is tied to its table of tokens has a vocabulary."""

_TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Offer:
    """What a person would prune, and what of it is offered.

    Attributes:
        wanted: Weights on channels that are no ends of the model, once for each of their channel dimensions.
        offered: Those of them whose channels are units of the dependency graph.
        reasons: The others, by why they are frozen.
    """

    wanted: int
    offered: int
    reasons: Counter[str]

    @property
    def share(self) -> float:
        """The offered part; 1 where there is nothing to prune."""
        return self.offered / self.wanted if self.wanted else 1.0


def count_offer(model: nn.Module, program: Program, *, regroup: bool = False) -> Offer:
    """Count channels of the model's layers.

    Args:
        model: The user's model.
        program: What was captured of it.
        regroup: Offer axes under a GroupNorm that straddles a concatenation too.
    """
    graph = DependencyGraph(program, regroup=regroup)
    wanted = offered = 0
    reasons: Counter[str] = Counter()
    for name, dims in _channel_dimensions(model):
        if name not in graph.tensors:
            continue
        tensor = graph.tensors[name]
        for dim in dims:
            size = tensor.shape[dim]
            if size < 2:
                continue
            free, frozen = _split(graph, name, dim)
            ends = (mask for why, mask in frozen if why.startswith(_ENDS))
            an_end = np.logical_or.reduce([np.zeros(size, bool), *ends])
            counts = ~an_end | free
            weights = tensor.numel() // size
            wanted += int(counts.sum()) * weights
            offered += int(free.sum()) * weights
            for why, mask in frozen:
                missed = int((mask & counts & ~free).sum())
                reasons[why] += missed * weights
    return Offer(wanted, offered, +reasons)


def _split(graph: DependencyGraph, name: str, dim: int) -> tuple[BoolArray, list[tuple[str, BoolArray]]]:
    """Flat indices that some unit takes, and those of each frozen part with its reason.

    An axis that an output has is an end of the model, whatever else is said of it first.
    """
    units = {graph.leaf(group.id) for group in graph.groups}
    outputs = _output_axes(graph)
    term = graph.dims(name)[dim]
    size = graph.tensors[name].shape[dim]
    free = np.zeros(size, bool)
    frozen: list[tuple[str, BoolArray]] = []
    covered = np.zeros(size, bool)
    for leaf, box in occurrences(term):
        mask = np.zeros(size, bool)
        mask[box.indices(leaf.size).ravel()] = True
        covered |= mask
        if leaf in units:
            free |= mask
        else:
            frozen.append((_OUTPUT if leaf in outputs else graph._reason(leaf), mask))
    frozen.append(("single positions told apart by name or place", ~covered))
    return free, frozen


def _output_axes(graph: DependencyGraph) -> set[Leaf]:
    """The axes that some output of the model has."""
    dims = graph.analysis.facts.dims
    nodes = graph.program.graph_module.graph.output_node().all_input_nodes
    return {leaf for node in nodes for dim in dims.get(node) or () for leaf in _leaves(graph, dim)}


def _leaves(graph: DependencyGraph, dims: Dim | list[Dim]) -> Iterator[Leaf]:
    """The axes of a dimension, or of those of one of several results."""
    for dim in dims if isinstance(dims, list) else [dims]:
        yield from leaves(graph.analysis.algebra.resolve(dim))


def _channel_dimensions(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and channel dimensions of the weights of linear, convolution, recurrent and norm layers, each once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if isinstance(module, _TABLES):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not _is_layer_weight(module, key, parameter):
                continue
            seen.add(id(parameter))
            yield f"{prefix}.{key}" if prefix else key, _channels(module, parameter)


def _channels(module: nn.Module, parameter: nn.Parameter) -> tuple[int, ...]:
    """The dimensions of a weight that hold channels: no kernels, and no numbers of experts."""
    if parameter.ndim == 3 and not isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        return 1, 2  # one matrix an expert
    return tuple(range(min(2, parameter.ndim)))  # what follows is the kernel, of convolutions of one's own too


def _is_layer_weight(module: nn.Module, key: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the weight of a layer, and no table of positions, token, scale or bias by itself."""
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return parameter.ndim > 1
    return key == "weight" and not list(module.children()) and 1 <= parameter.ndim <= 5
