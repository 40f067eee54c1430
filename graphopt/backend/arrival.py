"""What arrives from torch.compile: a graph whose placeholders are parameters, inputs and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, fx, nn

OWNED = re.compile(r"(?:\.|^)_(?:modules|parameters|buffers)\['([^']+)'\]")
"""A step of a source text that leads into a module."""

OWNER = re.compile(r"_(?:parameters|buffers)\['[^']+'\]$")
"""The last step of a source text that leads to a parameter or buffer; a tensor may be a plain attribute too."""

DETOUR = re.compile(r"\.__dict__\['(_modules|_parameters|_buffers)'\]")
"""How dynamo reaches a table of a module whose class has a `__getattr__` of its own."""

WORD = re.compile(r"[A-Za-z_]\w*")


class Kind(Enum):
    """What a placeholder stands for."""

    STATIC = "static"
    TENSOR = "tensor"
    NUMBER = "number"


@dataclass(frozen=True)
class Place:
    """One placeholder.

    Attributes:
        node: The placeholder.
        kind: A parameter or buffer, another tensor, or a number.
        name: Dotted name of a parameter or buffer; name of the argument otherwise.
    """

    node: fx.Node
    kind: Kind
    name: str


@dataclass(frozen=True)
class Arrival:
    """A graph of torch.compile, read.

    Attributes:
        graph_module: The graph; it is never written to.
        places: Its placeholders in order; a call brings one argument for each.
        roots: How the source of a module begins, by the prefix that its names are given here.
    """

    graph_module: fx.GraphModule
    places: tuple[Place, ...]
    roots: Mapping[str, str]

    def pick(self, args: Sequence[Any], kind: Kind) -> dict[str, Any]:
        """Return the arguments of a kind by name, in the order of the placeholders."""
        return {place.name: value for place, value in zip(self.places, args, strict=True) if place.kind is kind}

    def positions(self, kind: Kind) -> tuple[int, ...]:
        """Return where the arguments of a kind stand that the graph reads."""
        return tuple(index for index, place in enumerate(self.places) if place.kind is kind and place.node.users)

    def fakes(self) -> list[Any]:
        """Return what torch.compile traced each placeholder with: fake tensors and symbolic numbers."""
        return [place.node.meta.get("example_value") for place in self.places]

    def __str__(self) -> str:
        """Return the number that torch.compile's own logs give the graph."""
        number = self.graph_module.meta.get("dynamo_compile_id")
        return "graph" if number is None else f"graph [{number}]"


def read_arrival(graph_module: fx.GraphModule) -> Arrival:
    """Read the placeholders of a graph of torch.compile."""
    nodes = graph_module.graph.find_nodes(op="placeholder")
    sources = {node: source_of(node) for node in nodes}
    kinds = {node: _kind(node, sources[node]) for node in nodes}
    starts = dict.fromkeys(_root(sources[node]) for node in nodes if kinds[node] is Kind.STATIC)
    roots = {start: "" if len(starts) == 1 else "_".join(_words(start)) + "." for start in starts}
    taken: set[str] = set()
    places = []
    for node in nodes:
        wanted = _static_name(sources[node], roots) if kinds[node] is Kind.STATIC else _argument(node, sources[node])
        name = _free(wanted, taken)
        taken.add(name)
        places.append(Place(node, kinds[node], name))
    return Arrival(graph_module, tuple(places), roots)


def source_of(node: fx.Node) -> str:
    """Return the text that says where torch.compile takes the value of a placeholder from; empty where unknown."""
    source: Any = getattr(node, "_dynamo_source", None)
    name = getattr(source, "name", "")
    return DETOUR.sub(r".\1", str(name() if callable(name) else name))


def module_path(arrival: Arrival, path: str) -> str:
    """Return the dotted name of a module from the path that torch.compile wrote on a node."""
    path = DETOUR.sub(r".\1", path)
    for start, prefix in arrival.roots.items():
        if path == start:
            return prefix.rstrip(".")
        if path.startswith(f"{start}."):
            inside = path[len(start) + 1 :]
            return prefix + re.sub(r"_modules\['([^']+)'\]", r"\1", inside)
    return path


def _kind(node: fx.Node, source: str) -> Kind:
    if not isinstance(node.meta.get("example_value"), Tensor):
        return Kind.NUMBER
    marked = "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
    return Kind.STATIC if marked and OWNER.search(source) else Kind.TENSOR


def _root(source: str) -> str:
    found = OWNED.search(source)
    return source if found is None else source[: found.start()]


def _static_name(source: str, roots: Mapping[str, str]) -> str:
    return roots[_root(source)] + ".".join(OWNED.findall(source))


def _argument(node: fx.Node, source: str) -> str:
    words = _words(source)
    return words[-1] if words else str(node.name)


def _words(source: str) -> list[str]:
    """Return the names in a source text; those of dynamo's own scopes do not count."""
    return [word for word in WORD.findall(source) if word not in ("L", "G")]


def _free(name: str, taken: set[str]) -> str:
    candidates = [name, *(f"{name}_{number}" for number in range(1, len(taken) + 1))]
    return next(candidate for candidate in candidates if candidate not in taken)


def is_plain(value: Any) -> bool:
    """Tell whether a value is a plain tensor with numbers in it, not a fake, meta or wrapped one."""
    return type(value) in (Tensor, nn.Parameter) and not value.is_meta
