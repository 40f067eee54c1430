"""Law 1 on one choice of removed units: the masked original against the rewritten program."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import written_attributes
from graphopt.assembly import Attribute
from graphopt.copying import GraphCopy, copy_graph
from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import VerificationError
from graphopt.program import Program
from graphopt.proof.masking import mask_operands, mask_tensors
from graphopt.proof.twin import TWINS, Statistic, replace_by_twin
from graphopt.rewrite.compensation import Remedies, remedies
from graphopt.rewrite.moments import COMPENSATED
from graphopt.rewrite.slicing import slice_tensor
from graphopt.rewrite.statistics import touched_statistics

TOLERANCE = 1e-4
"""Largest error at which the masked original and the rewritten program count as equal."""

ROUNDING = 1e-13
"""Largest difference in float64, relative to the outputs, that is rounding and no error: of a change that small nothing
can be shown."""

NARROW = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Comparison:
    """How far the rewritten program is from the masked original.

    Attributes:
        error: largest over the outputs of ``||masked - rewritten||`` over the smaller of ``||masked - original||``
            and ``||masked||``, so that a large original hides nothing, or over the one of them that is not zero; zero
            where both agree to the last bit.
        effect: largest over the outputs of ``||masked - original|| / ||original||``: without an effect nothing is
            shown.
        outputs: number of tensor outputs compared.
    """

    error: float
    effect: float
    outputs: int


def compare(
    graph: DependencyGraph,
    rewritten: Program,
    kept: Mapping[str, Sequence[int]],
    values: Mapping[str, Tensor],
    inputs: tuple[tuple[object, ...], Mapping[str, object]],
) -> Comparison:
    """Run the masked original and the rewritten program on the same weights and inputs.

    Args:
        graph: analysis of the original.
        rewritten: the original without what is not kept.
        kept: kept indices by axis id.
        values: the weights, by name, in the original's shapes.
        inputs: positional and keyword inputs.

    A difference above ``TOLERANCE`` is measured again in float64, which tells rounding from a mistake where a removal
    has little effect, or the model computes in half precision.

    Raises:
        VerificationError: if the two programs do not have the same statistics.
    """
    found = _compare(graph, rewritten, kept, values, inputs)
    if found.error < TOLERANCE:
        return found
    wide = {name: _widened_tensor(tensor) for name, tensor in values.items()}
    wide_inputs = pytree.tree_map_only(Tensor, _widened_tensor, inputs)
    try:
        with _default_type(torch.float64):  # of random numbers and others that a call makes without being told a type
            return _compare(graph, rewritten, kept, wide, wide_inputs, widen=True)
    except RuntimeError:
        return found


def _compare(
    graph: DependencyGraph,
    rewritten: Program,
    kept: Mapping[str, Sequence[int]],
    values: Mapping[str, Tensor],
    inputs: tuple[tuple[object, ...], Mapping[str, object]],
    *,
    widen: bool = False,
) -> Comparison:
    masks = graph.masks(kept)
    made_up = remedies(graph, kept, "none" if rewritten.lineage is None else rewritten.lineage.compensate)
    statistics = {
        node: Statistic(touched.count)
        for node, touched in touched_statistics(graph, masks).items()
        if node not in made_up.actions
    }
    original = _twinned(graph.program, statistics)
    masked = _twinned(graph.program, statistics)
    mask_operands(graph, masks, masked, made_up.actions.keys())
    sliced = _twinned_rewrite(graph, rewritten, statistics, made_up)
    for duplicate in (original, masked, sliced) if widen else ():
        _widen(duplicate)
    small = {
        name: made_up.scaled(graph.names[name], slice_tensor(tensor, graph.dims(name), masks))
        for name, tensor in values.items()
        if name in graph.names
    }
    written = written_attributes(graph.program.graph_module)
    return compared(
        _run(original, values, inputs, written),
        _run(masked, mask_tensors(graph, masks, values), inputs, written),
        _run(sliced, small, inputs, written),
    )


def _twinned(program: Program, statistics: Mapping[fx.Node, Statistic]) -> GraphCopy:
    duplicate = copy_graph(program.graph_module)
    for node, statistic in statistics.items():
        if node.target in TWINS:
            replace_by_twin(duplicate.nodes[node], statistic)
    return duplicate


def _twinned_rewrite(
    graph: DependencyGraph, rewritten: Program, statistics: Mapping[fx.Node, Statistic], made_up: Remedies
) -> GraphCopy:
    """The same statistics replaced in the rewritten program: its n-th statistic is the original's n-th.

    Those that are compensated stay as they are on both sides.
    """
    before = [node for node in graph.program.nodes() if node.target in TWINS and node not in made_up.actions]
    after = [node for node in rewritten.nodes() if node.target in TWINS and COMPENSATED not in node.meta]
    if [node.target for node in before] != [node.target for node in after]:
        raise VerificationError(
            f"the rewritten program has {len(after)} normalisations and means where the original has {len(before)}; "
            "the rewrite changed more than sizes, please report it"
        )
    shared = {new: statistics[old] for old, new in zip(before, after, strict=True) if old in statistics}
    return _twinned(rewritten, shared)


@contextmanager
def _default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _widened_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64) if tensor.dtype in NARROW else tensor


def _widen(duplicate: GraphCopy) -> None:
    """Let a graph compute in float64: constants, and numbers of type that operators are given."""
    for name, attribute in duplicate.attributes.items():
        if isinstance(attribute.value, Tensor):
            duplicate.attributes[name] = Attribute(_widened_tensor(attribute.value), attribute.persistent)
    for node in duplicate.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, _widened_dtype)
        node.kwargs = fx.node.map_aggregate(node.kwargs, _widened_dtype)


def _widened_dtype(argument: Any) -> Any:
    return torch.float64 if argument in NARROW else argument


def _run(
    duplicate: GraphCopy,
    values: Mapping[str, Tensor],
    inputs: tuple[tuple[object, ...], Mapping[str, object]],
    written: frozenset[str],
) -> list[Tensor]:
    """Run a graph; what it writes to is a copy, so that the next run starts from the same state."""
    values = {name: tensor.detach().clone() if name in written else tensor for name, tensor in values.items()}
    attributes = {
        name: Attribute(values[name], attribute.persistent) if name in values else attribute
        for name, attribute in duplicate.attributes.items()
    }
    module = GraphCopy(duplicate.graph, attributes, duplicate.nodes, duplicate.class_name).assemble()
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = module(*args, **kwargs)
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def compared(original: list[Tensor], masked: list[Tensor], sliced: list[Tensor]) -> Comparison:
    """Compare the outputs of the original, the masked original and the rewritten program."""
    errors, effects = [0.0], [0.0]
    for whole, expected, found in zip(original, masked, sliced, strict=True):
        difference, change = _distance(expected, found), _distance(expected, whole)
        effects.append(change / (_norm(whole) or 1.0))
        size = _norm(expected)
        if whole.dtype == torch.float64 and difference <= ROUNDING * max(size, _norm(whole)):
            continue
        scale = min(change or size, size or change)
        errors.append(0.0 if difference == 0 else difference / scale if scale else math.inf)
    return Comparison(_largest(errors), _largest(effects), len(original))


def _distance(first: Tensor, second: Tensor) -> float:
    """Norm of the difference, of truth values too; tensors of different shapes, which data decide, share nothing."""
    if first.shape != second.shape:
        return _norm(first) + _norm(second)
    return _norm(first.float() - second.float() if first.dtype == torch.bool else first - second)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach().to(torch.float64))) if tensor.numel() else 0.0


def _largest(numbers: list[float]) -> float:
    return math.nan if any(math.isnan(number) for number in numbers) else max(numbers)
