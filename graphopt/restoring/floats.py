"""Floats that a rewrite changes, such as the ``eps`` of a norm: written where a module keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx, nn
from torch.utils import _pytree as pytree

from graphopt.program import Program
from graphopt.restoring.matching import Match
from graphopt.untouched import OWN


def put_floats(model: nn.Module, matches: Sequence[Match | None], program: Program) -> None:
    """Write into a model the floats that its operators have in a rewritten program.

    A number belongs to the one attribute of the calling module that has its value; where none or several have it, it
    stays, and the comparison of outputs decides.

    Args:
        model: changed in place.
        matches: what became of each call of the user's model.
        program: the rewritten program.
    """
    nodes = {node.name: node for node in program.nodes()}
    wanted: dict[tuple[str, float], set[float]] = {}
    for match in filter(None, matches):
        for node in match.nodes:
            for before, after in _changed(node, nodes.get(node.name)):
                wanted.setdefault((match.call.module, before), set()).add(after)
    modules = dict(model.named_modules())
    for (name, before), found in wanted.items():
        keys = list(_keys(modules[name], before)) if name in modules else []
        if len(keys) == 1 and len(found) == 1:
            modules[name].__dict__[keys[0]] = found.pop()


def common_floats(built: nn.Module, restored: nn.Module) -> dict[float, float]:
    """Floats that all modules which keep them have another value for in a smaller model.

    Args:
        built: the class as its configuration makes it.
        restored: the smaller model, of the same class.

    Returns:
        The new value by the old one, where it is one and the same everywhere.
    """
    smaller = dict(restored.named_modules())
    found: dict[float, set[float]] = {}
    for name, module in built.named_modules():
        for key, value in module.__dict__.items():
            other = smaller[name].__dict__.get(key) if name in smaller else None
            if key not in OWN and isinstance(value, float) and isinstance(other, float):
                found.setdefault(value, set()).add(other)
    return {before: next(iter(after)) for before, after in found.items() if len(after) == 1 and before not in after}


def _changed(node: fx.Node, other: fx.Node | None) -> Iterator[tuple[float, float]]:
    if other is None or other.target != node.target:
        return
    before, after = (pytree.tree_leaves((one.args, one.kwargs)) for one in (node, other))
    for first, second in zip(before, after, strict=False):
        if isinstance(first, float) and isinstance(second, float) and first != second:
            yield first, second


def _keys(module: nn.Module, value: float) -> Iterator[str]:
    yield from (key for key, held in module.__dict__.items() if isinstance(held, float) and held == value)
