"""A graph's tensors and wiring as lines of text that do not depend on names of values or on weights."""

import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from graphopt.opaque import same_anywhere

_OWN = tuple(map(str, Path(__file__).parent.glob("*.py")))


def fingerprint(graph_module: fx.GraphModule) -> str:
    """Return the SHA-256 of a graph's tensors (name, shape, dtype) and operators (target, wiring, constants)."""
    digest = hashlib.sha256()
    for line in _lines(graph_module):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def first_difference(left: fx.GraphModule, right: fx.GraphModule) -> str | None:
    """Return the first tensor or operator in which two graphs differ, or None where their fingerprints agree."""
    for one, other in itertools.zip_longest(_lines(left), _lines(right), fillvalue="nothing more"):
        if one != other:
            return f"{one} against {other}"
    return None


def walk(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield every node in the order of execution; the body of a higher-order operator precedes its call."""
    for node in graph_module.graph.nodes:
        body = submodule_of(graph_module, node)
        if body is not None:
            yield from walk(body)
        yield node


def submodule_of(graph_module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """Return the graph module that a `get_attr` node reads, None where it reads a tensor."""
    if node.op != "get_attr":
        return None
    held: nn.Module | None = graph_module
    for part in str(node.target).split("."):
        held = None if held is None else held._modules.get(part)
    return held if isinstance(held, fx.GraphModule) else None


def node_line(node: fx.Node) -> str:
    """Return the deepest line of the user's code that made a node, as ``file:line``, empty where it is not known."""
    trace = str(node.meta.get("stack_trace") or "")
    frames = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [frame for frame in frames if "/torch/" not in frame[0] and not frame[0].startswith(("<", *_OWN))] or frames
    return ":".join(own[-1]) if own else ""


def _lines(graph_module: fx.GraphModule) -> Iterator[str]:
    tensors: dict[str, torch.Tensor] = dict(graph_module.named_parameters(remove_duplicate=False))
    tensors.update(graph_module.named_buffers(remove_duplicate=False))
    for name in sorted(tensors):
        tensor = tensors[name]
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        yield f"{kind} {name}: {tensor.dtype} {tuple(tensor.shape)}"
    yield from _operator_lines(graph_module, 0)


def _operator_lines(graph_module: fx.GraphModule, depth: int) -> Iterator[str]:
    numbers: dict[fx.Node, str] = {}
    count = itertools.count()
    for node in graph_module.graph.nodes:
        body = submodule_of(graph_module, node)
        if body is not None:
            numbers[node] = "body"
            yield from _operator_lines(body, depth + 1)
        elif node.op == "get_attr":
            numbers[node] = f"${node.target}"
        else:
            numbers[node] = f"%{next(count)}"
            yield f"operator {'  ' * depth}{numbers[node]} = {_call(node, numbers)}"


def _call(node: fx.Node, numbers: dict[fx.Node, str]) -> str:
    target = node.op if node.op in ("placeholder", "output") else str(node.target)
    arguments = [_argument(argument, numbers) for argument in node.args] if node.op != "placeholder" else []
    arguments += [f"{key}={_argument(value, numbers)}" for key, value in sorted(same_anywhere(node).items())]
    return f"{target}({', '.join(arguments)})"


def _argument(value: Any, numbers: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return numbers[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(_argument(item, numbers) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_argument(item, numbers)}' for key, item in value.items())}}}"
    if isinstance(value, torch.device):
        return "device"
    return repr(value)
