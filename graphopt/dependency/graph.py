"""The dependency graph of a program: coupling groups, frozen axes, and why."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from torch import fx

from graphopt.dependency.analysis import Analysis, Omission, tensor_key
from graphopt.dependency.kinds import kind_of, products_by_leaf
from graphopt.dependency.placement import BoolArray, Box, IntArray, Placement, kept_mask, kept_size, occurrences
from graphopt.dependency.terms import Dim, Leaf, Sum, leaves
from graphopt.dependency.zeros import ZeroPropagation
from graphopt.errors import GraphoptError
from graphopt.preparation import collection_paused
from graphopt.program import Program, require_program


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that an axis lies on.

    Attributes:
        tensor: name of the parameter or buffer; tied names are represented by the first.
        dim: the dimension.
        placement: which flat indices of the dimension each index of the axis takes.
    """

    tensor: str
    dim: int
    placement: Placement

    def indices(self) -> IntArray:
        """Flat indices of the dimension, shape ``(size, m)``: row ``i`` is what unit ``i`` takes."""
        return self.placement.indices()


@dataclass(frozen=True)
class Group:
    """A coupling group: one free axis, every index of which is a unit that can be removed on its own.

    Attributes:
        id: stable name: the first member's tensor, dimension and position in it.
        kind: what the axis is: head, kv_group, queries_per_group, pair, qk_dim, vo_dim, expert, state, residual,
            channel or hidden.
        size: number of units.
        members: every tensor dimension that the axis lies on.
        marks: ``statistic`` where a statistic runs over the axis; ``residue`` where two activations are contracted
            over it and zero does not reach them.
        iso_key: equal for axes with the same operators, dimensions and shapes (Isomorphic Pruning, Fang et al.,
            ECCV 2024, arXiv 2407.04616).
    """

    id: str
    kind: str
    size: int
    members: tuple[Member, ...]
    marks: frozenset[str]
    iso_key: str


@dataclass(frozen=True)
class FrozenAxis:
    """A part of a tensor dimension that cannot be pruned, and why."""

    tensor: str
    dim: int
    size: int
    reason: str


class DependencyGraph:
    """Which indices of which parameters go together.

    Works without weights: shapes are enough, so a program captured on the meta device is analysed as any other.

    Args:
        program: the program to analyse; it is not changed.
        regroup: let the members of a GroupNorm's groups change where the groups straddle a concatenation.
        omission: a tie to leave out, for tests.

    References:
        Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, arXiv 2301.12900, for the problem. The
        dimension algebra that solves it here is graphopt's own.
    """

    @collection_paused()
    def __init__(self, program: Program, *, regroup: bool = False, omission: Omission | None = None) -> None:
        self.program = require_program(program)
        self.tensors = program.parameters
        self.regroup = regroup
        self.analysis = Analysis(program, omission, regroup=regroup).run()
        self.names = self._canonical_names()
        self._occurrences = self._collect()
        self._ids = self._name_leaves()
        self._leaves = {name: leaf for leaf, name in self._ids.items()}

    # ---------------------------------------------------------------- groups

    def _canonical_names(self) -> dict[str, str]:
        """Every tensor name with the first name of the same tensor."""
        first: dict[object, str] = {}
        return {name: first.setdefault(tensor_key(tensor), name) for name, tensor in self.tensors.items()}

    def dims(self, name: str) -> list[Dim]:
        """Dimensions of a parameter or buffer, as terms of the algebra.

        Raises:
            GraphoptError: if the program has no such tensor.
        """
        if name not in self.tensors:
            raise GraphoptError(f"no parameter or buffer named {name!r}; see program.parameters for the names")
        return self.analysis.tensor_dims(self.tensors[name])

    def _collect(self) -> dict[Leaf, list[Member]]:
        found: dict[Leaf, list[Member]] = {}
        for name, first in self.names.items():
            if name != first:
                continue
            for position, dim in enumerate(self.dims(name)):
                boxes: dict[Leaf, list[Box]] = {}
                for leaf, box in occurrences(dim):
                    boxes.setdefault(leaf, []).append(box)
                for leaf, own in boxes.items():
                    placement = Placement(leaf.size, tuple(own))
                    found.setdefault(leaf, []).append(Member(name, position, placement))
        return found

    def _name_leaves(self) -> dict[Leaf, str]:
        ids: dict[Leaf, str] = {}
        counts: dict[tuple[str, int], int] = {}
        for leaf, members in self._occurrences.items():
            if leaf.frozen is not None or "produced" not in leaf.marks or leaf.size < 2:
                continue
            spot = (members[0].tensor, members[0].dim)
            ordinal = counts.get(spot, 0)
            counts[spot] = ordinal + 1
            ids[leaf] = f"{spot[0]}:{spot[1]}" + (f".{ordinal}" if ordinal else "")
        return ids

    @property
    def divisors(self) -> list[tuple[Dim, int]]:
        """Dimensions whose kept size must be a multiple of a number, the groups of a regrouped GroupNorm."""
        return [(self.analysis.algebra.resolve(dim), number) for dim, number in self.analysis.facts.divisors]

    @cached_property
    def zeros(self) -> ZeroPropagation:
        """Where the members' zeros reach."""
        return ZeroPropagation(self.analysis)

    @cached_property
    @collection_paused()
    def groups(self) -> tuple[Group, ...]:
        """Every free axis, in the order of the parameters."""
        left_over = self.zeros.residue_leaves
        products = products_by_leaf(self._terms())
        return tuple(
            Group(
                id=name,
                kind=kind_of(leaf, products[leaf], self._beside(leaf)),
                size=leaf.size,
                members=tuple(self._occurrences[leaf]),
                marks=frozenset(leaf.marks & {"statistic"}) | ({"residue"} if leaf in left_over else set()),
                iso_key=self._iso_key(leaf),
            )
            for leaf, name in self._ids.items()
        )

    def _beside(self, leaf: Leaf) -> list[Dim]:
        """The other dimensions of the tensors that have an axis as a dimension of its own."""
        alone = [member for member in self._occurrences[leaf] if self.dims(member.tensor)[member.dim] == (leaf,)]
        return [
            dim
            for member in alone
            for place, dim in enumerate(self.dims(member.tensor))
            if place != member.dim and not any(isinstance(factor, Sum) for factor in dim)
        ]

    def _terms(self) -> list[Dim]:
        return [dim for name, first in self.names.items() if name == first for dim in self.dims(name)]

    @cached_property
    def readers(self) -> Mapping[str, str]:
        """For each tensor the operators that read it and at which place, as text; empty where nothing does."""
        readers: dict[str, set[str]] = {}
        for node in self.program.nodes():
            if node.op == "get_attr":
                name = self.names.get(str(node.target), str(node.target))
                readers.setdefault(name, set()).update(_reader(user, node) for user in node.users)
        return {name: ",".join(sorted(targets)) for name, targets in readers.items()}

    def _iso_key(self, leaf: Leaf) -> str:
        parts = sorted(
            f"{self.readers.get(member.tensor, '')}|{member.dim}|{tuple(self.tensors[member.tensor].shape)}"
            for member in self._occurrences[leaf]
        )
        return hashlib.sha256(";".join(parts).encode()).hexdigest()[:16]

    # ---------------------------------------------------------------- frozen

    @cached_property
    def frozen(self) -> tuple[FrozenAxis, ...]:
        """Every part of a parameter dimension that is not offered, with the reason."""
        return tuple(
            FrozenAxis(member.tensor, member.dim, leaf.size, self._reason(leaf))
            for leaf, members in self._occurrences.items()
            if leaf not in self._ids
            for member in members
        )

    @cached_property
    def _unread(self) -> frozenset[str]:
        """Tensors that no operator reads."""
        return frozenset(name for name in self.names.values() if not self.readers.get(name))

    def _reason(self, leaf: Leaf) -> str:
        if leaf.frozen is not None:
            return str(leaf.frozen)
        if all(member.tensor in self._unread for member in self._occurrences[leaf]):
            return "no operator reads it"
        return "a single index" if leaf.size == 1 else "no parameter produces it"

    def explain(self, name: str, dim: int = 0) -> str:
        """What a dimension of a parameter is coupled to, or why it is frozen.

        Args:
            name: parameter or buffer name.
            dim: the dimension.

        Raises:
            GraphoptError: if there is no such tensor or dimension.
        """
        dims = self.dims(name)
        if not -len(dims) <= dim < len(dims):
            raise GraphoptError(f"{name} has {len(dims)} dimensions, so there is no dimension {dim}")
        dim %= len(dims)
        by_id = {group.id: group for group in self.groups}
        lines = [f"{name} dimension {dim} of size {self.tensors[name].shape[dim]}"]
        for leaf in dict.fromkeys(leaves(dims[dim])):
            if leaf in self._ids:
                lines.extend(_describe(by_id[self._ids[leaf]]))
            else:
                lines.append(f"  frozen part of {leaf.size}: {self._reason(leaf)}")
        if len(lines) == 1:
            lines.append("  nothing to prune: single positions told apart by name or place")
        return "\n".join(lines)

    def to_networkx(self) -> nx.Graph[str]:
        """The bipartite graph of coupling groups and tensors; an edge holds the dimensions."""
        graph: nx.Graph[str] = nx.Graph()
        for group in self.groups:
            graph.add_node(group.id, bipartite=0, kind=group.kind, size=group.size)
            for member in group.members:
                graph.add_node(member.tensor, bipartite=1, shape=tuple(self.tensors[member.tensor].shape))
                known = graph.get_edge_data(group.id, member.tensor, {"dims": ()})["dims"]
                graph.add_edge(group.id, member.tensor, dims=(*known, member.dim))
        return graph

    # ----------------------------------------------------------- kept indices

    def masks(self, kept: Mapping[str, Sequence[int]]) -> dict[Leaf, BoolArray]:
        """Kept indices by axis id as boolean masks by leaf.

        Raises:
            GraphoptError: if there is no such axis, or it has no such index.
        """
        out: dict[Leaf, BoolArray] = {}
        for name, indices in kept.items():
            leaf = self._leaves.get(name)
            if leaf is None or not all(0 <= index < leaf.size for index in indices):
                found = "no such axis" if leaf is None else f"indices from 0 to {leaf.size - 1}"
                raise GraphoptError(f"axis {name}: found {found} for what is to be kept; see graph.groups for the axes")
            mask = np.zeros(leaf.size, dtype=np.bool_)
            mask[list(indices)] = True
            out[leaf] = mask
        return out

    def leaf(self, group_id: str) -> Leaf:
        """The leaf of an axis."""
        return self._leaves[group_id]

    def name_of(self, leaf: Leaf) -> str | None:
        """The id of the axis that a leaf is; None where it is not offered."""
        return self._ids.get(leaf)

    def kept_indices(self, name: str, dim: int, masks: Mapping[Leaf, BoolArray]) -> IntArray:
        """Flat indices of a tensor dimension that stay."""
        return np.flatnonzero(kept_mask(self.dims(name)[dim], masks))

    def kept_shape(self, node: fx.Node, counts: Mapping[Leaf, int]) -> tuple[int, ...]:
        """The shape that a value has when each leaf keeps ``counts`` of its indices; of several, the first's."""
        dims = self.analysis.facts.dims[node] or []
        while dims and isinstance(dims[0], list):
            dims = dims[0]
        resolve = self.analysis.algebra.resolve
        return tuple(kept_size(resolve(dim), counts) for dim in dims)


def _reader(user: fx.Node, node: fx.Node) -> str:
    position = next((k for k, item in enumerate(user.args) if item is node), -1)
    return f"{user.target}/{position}"


def _describe(group: Group) -> list[str]:
    marks = f", {', '.join(sorted(group.marks))}" if group.marks else ""
    lines = [f"  {group.kind} axis {group.id} of {group.size}{marks}, coupled to:"]
    lines.extend(f"    {member.tensor} dimension {member.dim}" for member in group.members)
    return lines
