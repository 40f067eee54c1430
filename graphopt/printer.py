"""Stable text of a program: inputs, tensors, one line an operator, outputs."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphopt.opaque import same_anywhere
from graphopt.wiring import submodule_of

KINDS = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def render(graph_module: fx.GraphModule, title: str, notes: tuple[str, ...] = ()) -> str:
    """Return the text of a graph.

    Shapes follow types, as in `f32[B, 3, 32, 32]`; symbolic sizes are called B, B1 and so on in the order of their
    appearance in the inputs, whatever torch calls them. `%name` is a value, `$name` a parameter or buffer.

    Args:
        graph_module: Every node carries its `meta["val"]`.
        title: First line.
        notes: Remarks, one line each.
    """
    return "\n".join([title, *(f"note: {note}" for note in notes), *_Printer(graph_module).lines()])


class _Printer:
    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.symbols: dict[str, str] = {}

    def lines(self) -> Iterator[str]:
        graph = self.graph_module.graph
        yield "inputs"
        for node in graph.find_nodes(op="placeholder"):
            yield f"  %{node.name} : {self._type(node.meta.get('val'))}"
        yield "tensors"
        yield from self._tensors()
        yield "operators"
        yield from self._operators(self.graph_module, "  ")
        yield "outputs"
        yield f"  {self._outputs()}"

    def _tensors(self) -> Iterator[str]:
        read = {str(node.target) for node in self.graph_module.graph.find_nodes(op="get_attr")}
        tensors: dict[str, torch.Tensor] = dict(self.graph_module.named_parameters(remove_duplicate=False))
        tensors.update(self.graph_module.named_buffers(remove_duplicate=False))
        first: dict[int, str] = {}
        for name, tensor in tensors.items():
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            tie = f", tied to ${first[id(tensor)]}" if id(tensor) in first else ""
            first.setdefault(id(tensor), name)
            yield f"  ${name} : {self._type(tensor)} {kind}{tie}{'' if name in read else ', unread'}"

    def _operators(self, graph_module: fx.GraphModule, indent: str) -> Iterator[str]:
        for node in graph_module.graph.nodes:
            body = submodule_of(graph_module, node)
            if body is not None:
                operands = ", ".join(f"%{operand.name}" for operand in body.graph.find_nodes(op="placeholder"))
                yield f"{indent}@{node.target}({operands}):"
                yield from self._operators(body, f"{indent}  ")
                yield f"{indent}  return {self._argument(body, body.graph.output_node().args[0])}"
            elif node.op not in ("placeholder", "get_attr", "output"):
                yield f"{indent}%{node.name} : {self._type(node.meta.get('val'))} = {self._call(graph_module, node)}"

    def _call(self, graph_module: fx.GraphModule, node: fx.Node) -> str:
        if node.target is operator.getitem:
            return f"{self._argument(graph_module, node.args[0])}[{node.args[1]}]"
        arguments = [self._argument(graph_module, argument) for argument in node.args]
        arguments += [f"{key}={self._argument(graph_module, value)}" for key, value in same_anywhere(node).items()]
        return f"{_operator(node.target)}({', '.join(arguments)})"

    def _argument(self, graph_module: fx.GraphModule, value: Any) -> str:
        if isinstance(value, fx.Node):
            sign = "%" if value.op != "get_attr" else "$" if submodule_of(graph_module, value) is None else "@"
            return f"{sign}{value.name if sign == '%' else value.target}"
        if isinstance(value, tuple | list):
            return f"[{', '.join(self._argument(graph_module, item) for item in value)}]"
        if isinstance(value, torch.dtype):
            return _dtype(value)
        return str(value).removeprefix("torch.") if not isinstance(value, str) else repr(value)

    def _type(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return f"{_dtype(value.dtype)}[{', '.join(self._size(size) for size in value.shape)}]"
        if isinstance(value, tuple | list):
            return f"({', '.join(self._type(item) for item in value)})"
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return self._size(value)
        return "none" if value is None else f"{type(value).__name__} {value!r}"

    def _size(self, size: Any) -> str:
        """Write a size with this text's own symbols in place of torch's."""
        if not isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
            return str(size)
        expression = size.node.expr
        for symbol in sorted(getattr(expression, "free_symbols", ()), key=str):
            number = len(self.symbols)
            self.symbols.setdefault(str(symbol), f"B{number}" if number else "B")
        names = {symbol: self.symbols[str(symbol)] for symbol in getattr(expression, "free_symbols", ())}
        return str(expression.subs(names)) if names else str(expression)

    def _outputs(self) -> str:
        results = pytree.tree_leaves(self.graph_module.graph.output_node().args[0])
        leaves = iter([self._argument(self.graph_module, result) for result in results])
        info = getattr(self.graph_module.graph._codegen, "pytree_info", None)
        if info is None or info.out_spec is None:
            return ", ".join(leaves)
        return _nested(info.out_spec, leaves)


def _nested(spec: pytree.TreeSpec, leaves: Iterator[str]) -> str:
    """Write leaves in the user's own structure."""
    if spec.is_leaf():
        return next(leaves)
    children = [_nested(child, leaves) for child in spec.children()]
    if spec.type is tuple:
        return f"({', '.join(children)}{',' if len(children) == 1 else ''})"
    if spec.type is list:
        return f"[{', '.join(children)}]"
    keys = spec.context if spec.type is dict else None
    if keys is not None:
        return f"{{{', '.join(f'{key!r}: {child}' for key, child in zip(keys, children, strict=True))}}}"
    return f"{getattr(spec.type, '__name__', spec.type)}({', '.join(children)})"


def _operator(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    module = getattr(target, "__module__", "") or ""
    name = str(getattr(target, "__name__", target))
    return f"operator.{name}" if module == "_operator" else name


def _dtype(dtype: torch.dtype) -> str:
    """Write a dtype the short way: f32, bf16, i64, bool."""
    name = str(dtype).removeprefix("torch.")
    letters = name.rstrip("0123456789")
    return f"{KINDS[letters]}{name[len(letters) :]}" if letters in KINDS else name
