"""Program: a captured model as a graph, its tensors under the user's names, and where it came from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphopt import wiring
from graphopt.assembly import attach, named_attributes, write_code
from graphopt.assumptions import Assumptions
from graphopt.copying import copy_graph
from graphopt.errors import GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.input_check import InputCheck
from graphopt.printer import render
from graphopt.values import is_symbolic

Compensate: TypeAlias = Literal["none", "scale", "exact"]
"""What is done about statistics over a sliced axis: nothing, so that they are taken over what is kept; numbers are
changed where that suffices; or they are written out so that each counts what was removed."""


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


@dataclass(frozen=True)
class Bypass:
    """A branch or block that is left out: whoever read what it gives reads what enters it.

    Attributes:
        id: Id of the region in the captured program, such as ``block.3``.
        kind: What it is: ``branch`` or ``block``.
        replaced: Each node whose readers read another one, with that other node, in names of the captured program.
        tensors: Names of the tensors that leave with it, after what was left out before it.
    """

    id: str
    kind: str
    replaced: Mapping[str, str]
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fold:
    """What the constants among an operator's inputs give, written into its bias so that they can go.

    Attributes:
        node: Name of the operator in the captured program.
        bias: Name of its bias; a new one where it had none.
        values: What is added to the bias, one number an output channel of the captured program.
    """

    node: str
    bias: str
    values: tuple[float, ...]

    def added_to(self, bias: torch.Tensor) -> torch.Tensor:
        """Return a bias of shape ``(out_channels,)`` with the values added, summed in float64, in its own type."""
        values = torch.tensor(self.values, dtype=torch.float64, device=bias.device)
        return (bias.detach().to(torch.float64) + values).to(bias.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"node": self.node, "bias": self.bias, "values": list(self.values)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fold":
        """Read the JSON form."""
        return cls(str(data["node"]), str(data["bias"]), tuple(map(float, data["values"])))


@dataclass(frozen=True, eq=False)
class Lineage:
    """How a rewritten program descends from the captured one.

    Attributes:
        origin: The captured program, in whose indices everything is told.
        kept: Axis id to the indices of the origin that are left, ascending.
        regroup: Whether the axes are those of an analysis that lets GroupNorms regroup their members.
        bypassed: Branches and blocks that were left out before; the axes are those of what remained.
        compensate: What was done about statistics over sliced axes.
        folded: Constants that were written into biases, after what was left out and before what was sliced.
    """

    origin: "Program"
    kept: Mapping[str, tuple[int, ...]]
    regroup: bool = False
    bypassed: tuple[Bypass, ...] = ()
    compensate: Compensate = "none"
    folded: tuple[Fold, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
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
        assumptions: What the graph takes for granted about the inputs' data, checked at every call; None where the
            model's code asked nothing.
        lineage: Set by rewrites; None on a captured program.
        borrowed: Identities of the storages that belong to the user's model, or to the program that this one was
            rewritten from; none once `module` was called.
    """

    graph_module: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: Source
    dynamic_batch: bool
    notes: tuple[str, ...] = ()
    lineage: Lineage | None = None
    assumptions: Assumptions | None = None
    borrowed: frozenset[int] = field(default=frozenset(), repr=False)

    def __repr__(self) -> str:
        """Return the class and the sizes; `str` gives the whole text."""
        nodes, tensors = len(list(self.nodes())), len(self.parameters)
        return f"<Program {self.source.class_name}: {nodes} nodes, {tensors} tensors>"

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
        """Run the graph on the user's own arguments and return the user's own output structure.

        Raises:
            GraphoptError: The inputs' data make the model's code go another way than when it was captured.
        """
        if self.assumptions is not None:
            self.input_check().ask(self.graph_module, args, kwargs)
        return self.graph_module(*args, **kwargs)

    def wider_example(self) -> ExampleInputs:
        """Return the example at twice its batch; inputs that keep their rows at any batch stay as they are."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        places = self.graph_module.graph.find_nodes(op="placeholder")
        for place, (node, leaf) in enumerate(zip(places, leaves, strict=True)):
            sizes = node.meta["val"].shape if isinstance(leaf, torch.Tensor) else ()
            if sizes and is_symbolic(sizes[0]):
                leaves[place] = torch.cat([leaf, leaf])
        return ExampleInputs(*pytree.tree_unflatten(leaves, spec))

    def __str__(self) -> str:
        """Return the program's text: inputs, tensors, one line an operator, outputs."""
        return render(self.graph_module, f"program {self.source.class_name}", self.notes)

    def module(self, *, check_inputs: bool = True) -> nn.Module:
        """Return an ordinary module of this graph, over the program's own tensors: training it trains the program.

        Tensors whose storage belongs to the user's model or to another program are cloned first, so that those stay as
        they are.

        Args:
            check_inputs: Refuse inputs of other sizes than the captured ones, the symbolic batch aside: numbers that
                the model's code derived from them are fixed in the graph. Refuse also inputs whose data make that
                code go another way.
        """
        self._own_tensors()
        module = copy_graph(self.graph_module).assemble()
        write_code(module)
        if check_inputs:
            module.register_forward_pre_hook(self.input_check(), with_kwargs=True)
        return module

    def input_check(self) -> InputCheck:
        """Return what refuses calls for which the graph would silently compute something else."""
        leaves = ExampleInputs(self.args, dict(self.kwargs)).leaves()
        return InputCheck(self.graph_module, leaves, self.assumptions)

    def follow(self, held: Mapping[str, torch.Tensor], program: "Program") -> None:
        """Take over another program's tensors where this one held the same as that one did.

        Args:
            held: What the other program held before, by name.
            program: The other program.
        """
        now = program.parameters
        for name, attribute in named_attributes(self.graph_module).items():
            value = attribute.value
            if isinstance(value, torch.Tensor) and name in held and same_memory(value, held[name]):
                attach(self.graph_module, name, replace(attribute, value=now[name]))

    def _own_tensors(self) -> None:
        """Replace every tensor over storage of others by a clone."""
        memo: dict[int, torch.Tensor] = {}
        for name, attribute in named_attributes(self.graph_module).items():
            value = attribute.value
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self.borrowed:
                attach(self.graph_module, name, replace(attribute, value=clone_tensor(value, memo)))
        object.__setattr__(self, "borrowed", frozenset())


def require_program(value: object) -> Program:
    """Return a program as it is.

    Raises:
        GraphoptError: It is something else, such as a module that was not captured yet.
    """
    if isinstance(value, Program):
        return value
    is_model = isinstance(value, nn.Module)
    advice = "call graphopt.capture(model, args) first" if is_model else "pass what graphopt.capture returned"
    raise GraphoptError(f"found a {type(value).__name__}, wanted a Program; {advice}")


def first_difference(left: Program, right: Program) -> str | None:
    """Return the first tensor or operator in which two programs differ, None where their fingerprints agree."""
    return wiring.first_difference(left.graph_module, right.graph_module)


def same_memory(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Tell whether two tensors are the same elements of one storage."""
    same_place = (left.shape, left.stride(), left.storage_offset()) == (
        right.shape,
        right.stride(),
        right.storage_offset(),
    )
    return same_place and left.untyped_storage()._cdata == right.untyped_storage()._cdata


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
