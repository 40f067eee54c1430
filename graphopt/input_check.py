"""A check that a graph is called with what it was captured for: sizes and numbers that were fixed then."""

import enum
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphopt.assumptions import Assumptions
from graphopt.errors import GraphoptError
from graphopt.values import is_symbolic

PLAIN = (bool, int, float, str, type(None), enum.Enum)


class InputCheck:
    """A pre-hook that refuses inputs for which the graph would silently compute something else.

    A size that the model's Python code read while it was captured is a number of the graph, and so is every argument
    that is no tensor. A symbolic batch may have any size.

    What the code asked about the inputs' data is asked again.

    Args:
        graph_module: Its placeholders carry `meta["val"]`.
        leaves: The flat example inputs, in the order of the placeholders.
        assumptions: What the graph takes for granted about the inputs' data.
    """

    def __init__(
        self, graph_module: fx.GraphModule, leaves: Iterable[Any], assumptions: Assumptions | None = None
    ) -> None:
        self._wanted: list[tuple[str, Any]] = []
        self._assumptions = assumptions
        self._template = template_of(graph_module)
        leaves = list(leaves)
        places = graph_module.graph.find_nodes(op="placeholder")[: len(leaves)]
        for node, leaf in zip(places, leaves, strict=True):
            value = node.meta.get("val")
            self._wanted.append((node.name, _fixed(value) if isinstance(value, torch.Tensor) else leaf))

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Compare the inputs of a call; a call that does not fit the signature is left to fail by itself.

        Raises:
            GraphoptError: A size or a number is not the captured one, or the data decide otherwise.
        """
        found = self._flat(module, args, kwargs)
        if found is not None:
            self.compare(found)

    def ask(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Ask only what the code asked about the inputs' data.

        Raises:
            GraphoptError: The data decide otherwise.
        """
        found = self._flat(module, args, kwargs)
        if found is not None:
            self._ask(found)

    def ask_named(self, given: Mapping[str, Any]) -> None:
        """Ask the same of the arguments of a call, in the order in which they were captured.

        Raises:
            GraphoptError: The data decide otherwise.
        """
        self._ask(self._leaves(given))

    def compare(self, found: list[Any]) -> None:
        """Compare the flat inputs of a call, in the order of the placeholders.

        Raises:
            GraphoptError: A size or a number is not the captured one, or the data decide otherwise.
        """
        if len(found) == len(self._wanted):
            for (name, wanted), value in zip(self._wanted, found, strict=True):
                _compare(name, wanted, value)
            self._ask(found)

    def _ask(self, found: list[Any]) -> None:
        if self._assumptions is not None and len(found) == len(self._wanted):
            self._assumptions.check({name: value for (name, _), value in zip(self._wanted, found, strict=True)})

    def _flat(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
        bound = bound_arguments(module, args, kwargs)
        return None if bound is None else self._leaves(bound)

    def _leaves(self, bound: Mapping[str, Any]) -> list[Any]:
        """The flat inputs of a call; mappings in the order of their keys when captured, whatever it is now."""
        values = list(bound.values())
        return flat_like(values, self._template) if len(values) == len(self._template) else pytree.tree_leaves(values)


def bound_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a call by name; None where they do not fit the signature."""
    try:
        return inspect.signature(module.forward).bind(*args, **kwargs).arguments
    except TypeError:
        return None


def flat_like(values: Any, template: Any) -> list[Any]:
    """Flatten nested values in the order of a template, whose mappings may have their keys in another order.

    Args:
        values: what to flatten.
        template: the same structure with numbers as leaves. Parts of another structure are flattened as they are.
    """
    if isinstance(template, int):
        return [values]
    if isinstance(template, dict) and isinstance(values, dict) and template.keys() <= values.keys():
        return [leaf for key in template for leaf in flat_like(values[key], template[key])]
    listed = isinstance(template, list | tuple) and isinstance(values, list | tuple)
    if listed and len(template) == len(values):
        return [leaf for value, part in zip(values, template, strict=True) for leaf in flat_like(value, part)]
    return pytree.tree_leaves(values)


def template_of(graph_module: fx.GraphModule) -> list[Any]:
    """The structure of each argument of a graph module, with numbers as leaves."""
    info = getattr(graph_module.graph._codegen, "pytree_info", None)
    if info is None:
        return []
    args, kwargs = pytree.tree_unflatten(range(info.in_spec.num_leaves), info.in_spec)
    return [*args, *kwargs.values()]


def _fixed(value: torch.Tensor) -> tuple[int | None, ...]:
    """Return the sizes of a tensor, None for those that are symbolic."""
    return tuple(None if is_symbolic(size) else int(size) for size in value.shape)


def _compare(name: str, wanted: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor) and isinstance(wanted, tuple):
        sizes = tuple(value.shape)
        if len(sizes) == len(wanted) and all(size in (None, now) for size, now in zip(wanted, sizes, strict=True)):
            return
        shown = [size if size is not None else "batch" for size in wanted]
        raise GraphoptError(
            f"input {name} has shape {list(sizes)}, and the graph was captured for {shown}: sizes that the model code "
            "reads are fixed there; capture with inputs of that shape, or call module(check_inputs=False) where the "
            "model never reads them"
        )
    if isinstance(wanted, PLAIN) and isinstance(value, PLAIN) and wanted != value:
        raise GraphoptError(
            f"input {name} is {value!r}, and the graph was captured with {wanted!r}: what is no tensor is fixed there; "
            "capture with the other value"
        )
