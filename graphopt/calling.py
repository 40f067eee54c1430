"""How a program is called, as plain data: for processes that have neither the model's code nor its graph."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.errors import PlanError
from graphopt.input_check import flat_like

CALLING = "calling"
"""Option of a partition that says how its program is called."""

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Calling:
    """Names of a program's inputs, and the structure of what it takes and returns.

    Attributes:
        inputs: names of the placeholders, in the order of the flat inputs.
        arguments: names of the arguments, positional ones first.
        takes: structure of positional and keyword inputs, as torch's pytree writes it.
        fixed: what of the flat inputs is a number, a text, a flag or None, by place: constants of the program.
        returns: structure of the output; None where one of its classes cannot be written.
        constants: what of the flat output is no tensor, by place.
        outputs: number of leaves of the output.
    """

    inputs: tuple[str, ...]
    arguments: tuple[str, ...]
    takes: str
    fixed: Mapping[int, Any]
    returns: str | None
    constants: Mapping[int, Any]
    outputs: int

    @classmethod
    def of(cls, graph_module: fx.GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Calling:
        """Describe how a program is called.

        Args:
            graph_module: its graph.
            args: its positional example inputs.
            kwargs: its keyword example inputs.
        """
        names = tuple(node.name for node in graph_module.graph.find_nodes(op="placeholder"))
        leaves = pytree.tree_leaves(graph_module.graph.output_node().args)
        constants = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, fx.Node)}
        info = getattr(graph_module.graph._codegen, "pytree_info", None)
        spec = None if info is None else info.out_spec
        writable = spec is not None and all(isinstance(leaf, _PLAIN) for leaf in constants.values())
        given, takes = pytree.tree_flatten((tuple(args), dict(kwargs)))
        fixed = {place: leaf for place, leaf in enumerate(given) if isinstance(leaf, _PLAIN)}
        text = _dumped(takes)
        if text is None:
            raise PlanError(
                "an input of the program is an object that cannot be written into a file; capture the model with "
                "tensors, lists and dicts"
            )
        arguments = tuple(inspect.signature(graph_module.forward).parameters)
        return cls(names, arguments, text, fixed, _dumped(spec) if writable else None, constants, len(leaves))

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors among the inputs of a call, by name.

        Raises:
            PlanError: the inputs have another structure than the program was captured with, or other constants.
        """
        template = pytree.tree_unflatten(range(len(self.inputs)), pytree.treespec_loads(self.takes))
        given = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        if set(given) != set(self.arguments) or len(given) != len(args) + len(kwargs):
            raise PlanError(
                f"found the arguments {', '.join(given)}, wanted just those that the model was captured with: "
                f"{', '.join(self.arguments)}; give them all, or capture the model as it is called"
            )
        count = len(template[0])
        ordered = tuple(given[name] for name in self.arguments[:count])
        leaves = flat_like((ordered, {name: given[name] for name in self.arguments[count:]}), template)
        if len(leaves) != len(self.inputs):
            raise PlanError(
                f"found {len(leaves)} inputs in the arguments, wanted {', '.join(self.inputs)}; call the model as it "
                "was captured, or capture it as it is called"
            )
        for place, value in self.fixed.items():
            if isinstance(leaves[place], Tensor) or leaves[place] != value:
                raise PlanError(
                    f"input {self.inputs[place]} is {leaves[place]!r}, and the program was captured with {value!r}: "
                    "what is no tensor is fixed there; capture with the other value"
                )
        return {name: leaf for name, leaf in zip(self.inputs, leaves, strict=True) if isinstance(leaf, Tensor)}

    def returned(self, tensors: Sequence[Tensor]) -> Any:
        """What the program returns, built of its tensors.

        Args:
            tensors: in the order of the output's leaves that are no constants.

        Raises:
            PlanError: the output has a class that cannot be written, or that is not known in this process.
        """
        if self.returns is None:
            raise PlanError(
                "the output of the program has a class that cannot be written; let the model return tensors"
            )
        rest = iter(tensors)
        leaves = [self.constants[place] if place in self.constants else next(rest) for place in range(self.outputs)]
        try:
            return pytree.tree_unflatten(leaves, pytree.treespec_loads(self.returns))
        except (NotImplementedError, ValueError, LookupError) as error:
            raise PlanError(
                f"a class of the program's output is not known here ({error}); import the library of the model first"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        constants = [[place, value] for place, value in self.constants.items() if isinstance(value, _PLAIN)]
        return {
            "inputs": [*self.inputs],
            "arguments": [*self.arguments],
            "takes": self.takes,
            "fixed": [[place, value] for place, value in self.fixed.items()],
            "returns": self.returns,
            "constants": constants,
            "outputs": self.outputs,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Calling:
        """Read the JSON form.

        Raises:
            PlanError: it is damaged.
        """
        try:
            constants = {int(place): value for place, value in data["constants"]}
            names = tuple(map(str, data["inputs"]))
            fixed = {int(place): value for place, value in data["fixed"]}
            arguments = tuple(map(str, data["arguments"]))
            return cls(names, arguments, str(data["takes"]), fixed, data["returns"], constants, int(data["outputs"]))
        except (LookupError, TypeError, ValueError) as error:
            raise PlanError(f"how the program is called is damaged ({error!r}); run partition again") from error


def _dumped(spec: Any) -> str | None:
    try:
        return pytree.treespec_dumps(spec)
    except NotImplementedError:
        return None
