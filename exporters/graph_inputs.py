"""Example values of a graph's inputs as JSON: types, sizes with their symbols, order in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from graphopt.exporters.graph_arguments import decoded, dtype_named, encoded, torch_name
from graphopt.values import hint, is_symbolic
from graphopt.wire import stride_order


class InputWriter:
    """Writes the values of one graph's inputs; the symbols of its sizes are called s0, s1 and so on.

    A size that is a sum of multiples of symbols is written as such, so that inputs of 2 and of 4 rows an example keep
    their ratio. Any other expression is written as a symbol of its own.
    """

    def __init__(self) -> None:
        self._symbols: dict[str, str] = {}
        self.examples: dict[str, int] = {}
        """What each symbol is on the example inputs."""

    def value(self, node: fx.Node) -> Any:
        """Return what an input is: a tensor, a size, or a plain value."""
        found = node.meta.get("val")
        if isinstance(found, torch.Tensor):
            return {
                "dtype": torch_name(found.dtype),
                "shape": [self._size(size) for size in found.shape],
                "order": [*stride_order(tuple(map(hint, found.stride())))],
                "device": found.device.type,
            }
        if is_symbolic(found):
            return {"size": self._size(found)}
        return {"value": encoded(found, f"the input {node.name}")}

    def _size(self, size: Any) -> Any:
        if not is_symbolic(size):
            return int(size)
        expression = size.node.expr
        terms = expression.as_coefficients_dict()
        if not all((factor.is_Symbol or factor == 1) and count.is_Integer for factor, count in terms.items()):
            return {self._named(expression, hint(size)): 1}
        counts = {"": int(terms[1])} if 1 in terms else {}
        for symbol in sorted(expression.free_symbols, key=str):
            alone = size.node.shape_env.create_symintnode(symbol, hint=None)
            counts[self._named(symbol, hint(alone))] = int(terms[symbol])
        return counts

    def _named(self, expression: Any, example: int) -> str:
        name = self._symbols.setdefault(str(expression), f"s{len(self._symbols)}")
        self.examples[name] = int(example)
        return name


class InputReader:
    """Makes fake values of what `InputWriter` wrote, with symbols of one shape environment.

    Args:
        examples: What each symbol is on the example inputs.
    """

    def __init__(self, examples: Mapping[str, int]) -> None:
        self._environment = ShapeEnv()
        self._mode = FakeTensorMode(shape_env=self._environment)
        self._sizes = {name: self._symbol(name, int(example)) for name, example in examples.items()}

    def value(self, content: Mapping[str, Any]) -> Any:
        """Return the value of an input for its ``meta["val"]``.

        Raises:
            LookupError: Something is absent, or a symbol is unknown.
            TypeError: Something is of another type than `InputWriter` writes.
            ValueError: Something is of another form than `InputWriter` writes.
        """
        if "dtype" not in content:
            return decoded(content["value"], {}) if "value" in content else self._size(content["size"])
        sizes = [self._size(size) for size in content["shape"]]
        order = content["order"]
        if sorted(order) != list(range(len(sizes))):
            raise ValueError(f"the order {order} of {len(sizes)} dimensions")
        with self._mode:
            return torch.empty_strided(
                sizes,
                list(_strides(sizes, order)),
                dtype=dtype_named(content["dtype"]),
                device=str(content["device"]),
            )

    def _symbol(self, name: str, example: int) -> Any:
        from torch._dynamo.source import ConstantSource  # slow to import, and not needed where every size is a number

        source = ConstantSource(name)
        symbol = self._environment.create_symbol(example, source, DimDynamic.DYNAMIC, constraint_dim=None)
        return self._environment.create_symintnode(symbol, hint=example, source=source)

    def _size(self, size: Any) -> Any:
        if isinstance(size, int):
            return size
        return sum(count if name == "" else self._sizes[name] * count for name, count in size.items())


def _strides(sizes: list[Any], order: list[int]) -> Iterator[Any]:
    """Yield the strides, dimension by dimension, of a dense tensor whose strides fall in the order given."""
    strides: dict[int, Any] = {}
    step: Any = 1
    for axis in reversed(order):
        strides[axis] = step
        step = step * sizes[axis]
    for axis in range(len(sizes)):
        yield strides[axis]
