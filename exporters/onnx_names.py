"""Names in an ONNX model: inputs, outputs and axes are called as in the user's model."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    import onnx_ir as ir


def output_names(result: Any) -> list[str]:
    """Return a name for every leaf of what a model returned, from the keys and places that lead to it.

    Args:
        result: Nested output, such as ``{"logits": tensor, "hidden": (tensor, tensor)}``; its names would be
            ``logits``, ``hidden_0`` and ``hidden_1``. A lone tensor is called ``output``.
    """
    return [_joined(path) for path in _leaf_paths(result, ())]


def name_inputs(model: "ir.Model", names: Sequence[str]) -> None:
    """Rename the inputs of a model.

    Args:
        model: Changed in place.
        names: One for each input, all different. Another value of such a name is renamed.
    """
    _rename(model, list(model.graph.inputs), names)


def name_outputs(model: "ir.Model", names: Sequence[str]) -> list[str]:
    """Rename the outputs of a model.

    Args:
        model: Changed in place. An output that is an input or a weight gets an Identity node before it.
        names: One for each output. One that an input, a weight or an earlier output bears is given a prefix.

    Returns:
        The names that were given.
    """
    taken = {str(value.name) for value in model.graph.inputs} | set(model.graph.initializers)
    given: list[str] = []
    for name in names:
        while name in taken:
            name = f"out_{name}"
        taken.add(name)
        given.append(name)
    _separate_outputs(model)
    _rename(model, list(model.graph.outputs), given)
    return given


def name_transposed(model: "ir.Model") -> None:
    """Call a transposed weight after the weight, so that it can be told after constants are folded.

    Args:
        model: Changed in place, before it is optimised.
    """
    taken = {value.name for value in _values(model)}
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or source is None or not source.is_initializer():
            continue
        name = f"{source.name}.transposed"
        if name not in taken:
            node.outputs[0].name = name
            taken.add(name)


def name_axes(model: "ir.Model", names: Mapping[str, str]) -> None:
    """Rename symbolic dimensions, alone or in expressions, in every shape of a model.

    Args:
        model: Changed in place.
        names: New names by symbol.
    """
    import onnx_ir

    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in _values(model):
        if value.shape is None:
            continue
        value.shape = onnx_ir.Shape(
            [
                pattern.sub(lambda match: names[match[0]], dimension.value)
                if isinstance(dimension, onnx_ir.SymbolicDim) and dimension.value is not None
                else dimension
                for dimension in value.shape
            ]
        )


def _leaf_paths(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    children, structure = pytree.tree_flatten(node, is_leaf=lambda inner: inner is not node)
    if structure.is_leaf():
        yield path
        return
    keys = list(node) if isinstance(node, Mapping) else getattr(node, "_fields", range(len(children)))
    for key, child in zip(keys, children, strict=True):
        yield from _leaf_paths(child, (*path, str(key)))


def _joined(path: Sequence[str]) -> str:
    name = re.sub(r"\W+", "_", "_".join(path))
    return name if name[:1].isalpha() else f"output_{name}".rstrip("_")


def _values(model: "ir.Model") -> Iterator["ir.Value"]:
    import onnx_ir

    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        yield from node.outputs


def _rename(model: "ir.Model", values: Sequence["ir.Value"], names: Sequence[str]) -> None:
    """Give names to values; whatever else bears one of them steps aside."""
    chosen = set(map(id, values))
    taken = {str(value.name) for value in _values(model)} | set(names)
    for value in list(_values(model)):
        if value.name in names and id(value) not in chosen:
            value.name = _free(f"{value.name}_value", taken)
    for place, value in enumerate(values):
        value.name = _free(f"graphopt_{place}", taken)
    for value, name in zip(values, names, strict=True):
        value.name = name


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _separate_outputs(model: "ir.Model") -> None:
    import onnx_ir

    for place, value in enumerate(model.graph.outputs):
        if not (value.is_graph_input() or value.is_initializer()):
            continue
        node = onnx_ir.node("Identity", [value])
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        model.graph.append(node)
        model.graph.outputs[place] = node.outputs[0]
