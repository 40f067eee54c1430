"""A copy of a graph, with the map from the old nodes to the new."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from graphopt.assembly import Attribute, assemble_in_order, attach, drop_code, named_attributes


@dataclass(frozen=True)
class GraphCopy:
    """A copy of a graph module, bodies of higher-order operators included.

    Attributes:
        graph: the copied graph, owned by nobody yet.
        attributes: tensors and copied bodies by name; tensors are shared with the original.
        nodes: from each node of the original to its copy.
        class_name: name of the original's class.
    """

    graph: fx.Graph
    attributes: dict[str, Attribute]
    nodes: dict[fx.Node, fx.Node]
    class_name: str

    def insert_attribute(self, reader: fx.Node, name: str, attribute: Attribute) -> fx.Node:
        """Read a new tensor just before a node of the copy.

        Args:
            reader: node of the copy, or of the body of a higher-order operator in it: the tensor belongs to that body.
            name: of the tensor, dotted.
            attribute: the tensor.
        """
        body = reader.graph.owning_module
        if body is None:
            self.attributes[name] = attribute
        else:
            attach(body, name, attribute)
        with reader.graph.inserting_before(reader):
            return reader.graph.get_attr(name)

    def assemble(self) -> fx.GraphModule:
        """Build the graph module of the copy as it stands."""
        self.graph.lint()
        for attribute in self.attributes.values():
            if isinstance(attribute.value, fx.GraphModule):
                _drop_codes(attribute.value)
        return assemble_in_order(self.graph, self.attributes, self.class_name)


def copy_graph(graph_module: fx.GraphModule) -> GraphCopy:
    """Copy a graph module; tensors stay shared."""
    nodes: dict[fx.Node, fx.Node] = {}
    graph = _copy_nodes(graph_module.graph, nodes)
    attributes = named_attributes(graph_module)
    for name, attribute in attributes.items():
        if isinstance(attribute.value, fx.GraphModule):
            inner = copy_graph(attribute.value)
            attributes[name] = Attribute(inner.assemble())
            nodes.update(inner.nodes)
    return GraphCopy(graph, attributes, nodes, type(graph_module).__name__)


def _drop_codes(body: fx.GraphModule) -> None:
    """Let a body, and the bodies in it, run what their graphs say by now."""
    for module in body.modules():
        if isinstance(module, fx.GraphModule):
            drop_code(module)


def _copy_nodes(graph: fx.Graph, nodes: dict[fx.Node, fx.Node]) -> fx.Graph:
    """Copy a graph's nodes; the calling convention is shared, since it is never changed."""
    duplicate = fx.Graph()
    for node in graph.nodes:
        nodes[node] = duplicate.node_copy(node, nodes.__getitem__)
    duplicate.set_codegen(graph._codegen)
    return duplicate
