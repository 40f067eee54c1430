"""Program: a captured model as a graph, its tensors under the user's names, and where it came from."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from graphopt import wiring
from graphopt.assembly import Attribute, assemble, named_attributes
from graphopt.printer import render


@dataclass(frozen=True)
class Source:
    """What a program was captured from.

    Attributes:
        class_name: Class of the user's model.
        fingerprint: SHA-256 over names, shapes and dtypes of the tensors and over the graph's operators and wiring;
            the values of the weights do not enter.
    """

    class_name: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Lineage:
    """How a rewritten program descends from the captured one.

    Attributes:
        origin: The captured program, in whose indices everything is told.
        kept: Axis id to the indices of the origin that are left, ascending.
    """

    origin: "Program"
    kept: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Program:
    """A model as an FX graph of ATen operators in inference form.

    Attributes:
        graph_module: Ordinary `torch.fx.GraphModule`. Parameters and buffers are read by `get_attr` nodes under the
            user's names; tensor constants are non-persistent buffers. It is called like the user's model.
        args: Example positional inputs it was captured with.
        kwargs: Example keyword inputs it was captured with.
        source: Class and fingerprint of the captured model.
        dynamic_batch: Whether the batch axis is symbolic, so that any batch of two or more runs.
        notes: Remarks of the capture, such as why the batch is static.
        lineage: Set by rewrites; None on a captured program.
        borrowed: Identities of the storages that belong to the user's model.
    """

    graph_module: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: Source
    dynamic_batch: bool
    notes: tuple[str, ...] = ()
    lineage: Lineage | None = None
    borrowed: frozenset[int] = field(default=frozenset(), repr=False)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """Parameters, buffers and tensor constants by name; tied names give the same tensor."""
        tensors: dict[str, torch.Tensor] = dict(self.graph_module.named_parameters(remove_duplicate=False))
        tensors.update(self.graph_module.named_buffers(remove_duplicate=False))
        return tensors

    def nodes(self) -> Iterator[fx.Node]:
        """Yield every node in the order of execution; the body of a higher-order operator precedes its call."""
        yield from wiring.walk(self.graph_module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on the user's own arguments and return the user's own output structure."""
        return self.graph_module(*args, **kwargs)

    def __str__(self) -> str:
        """Return the program's text: inputs, tensors, one line an operator, outputs."""
        return render(self.graph_module, f"program {self.source.class_name}", self.notes)

    def module(self) -> nn.Module:
        """Return an ordinary module of this graph.

        Tensors whose storage belongs to the user's model are cloned, so training the result leaves that model alone.
        """
        memo: dict[int, torch.Tensor] = {}
        attributes = {
            name: Attribute(self._owned(attribute.value, memo), attribute.persistent)
            for name, attribute in named_attributes(self.graph_module).items()
        }
        return assemble(copy.deepcopy(self.graph_module.graph), attributes, type(self.graph_module).__name__)

    def _owned(self, value: torch.Tensor | nn.Module, memo: dict[int, torch.Tensor]) -> torch.Tensor | nn.Module:
        if isinstance(value, nn.Module):
            return copy.deepcopy(value)
        if value.untyped_storage()._cdata not in self.borrowed:
            return value
        return clone_tensor(value, memo)


def first_difference(left: Program, right: Program) -> str | None:
    """Return the first tensor or operator in which two programs differ, None where their fingerprints agree."""
    return wiring.first_difference(left.graph_module, right.graph_module)


def clone_tensor(tensor: torch.Tensor, memo: dict[int, torch.Tensor]) -> torch.Tensor:
    """Clone a tensor once per identity, as a Parameter where it is one, keeping `requires_grad`.

    Args:
        tensor: Any shape.
        memo: Clones made so far by `id` of the original; a tied Parameter is found there again.
    """
    if id(tensor) not in memo:
        clone = tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(clone, requires_grad=tensor.requires_grad) if is_parameter else clone
    return memo[id(tensor)]
