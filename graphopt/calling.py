"""How a program is called, as plain data: for processes that have neither the model's code nor its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.errors import PlanError

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Calling:
    """Names of a program's inputs, and the structure of what it takes and returns.

    Attributes:
        inputs: names of the placeholders, in the order of the flat inputs.
        takes: structure of positional and keyword inputs, as torch's pytree writes it.
        returns: structure of the output; None where one of its classes cannot be written.
        constants: what of the flat output is no tensor, by place.
        outputs: number of leaves of the output.
    """

    inputs: tuple[str, ...]
    takes: str
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
        takes = pytree.tree_structure((tuple(args), dict(kwargs)))
        return cls(names, pytree.treespec_dumps(takes), _dumped(spec) if writable else None, constants, len(leaves))

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors among the inputs of a call, by name.

        Raises:
            PlanError: the inputs have another structure than the program was captured with.
        """
        leaves, found = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if found != pytree.treespec_loads(self.takes) or len(leaves) != len(self.inputs):
            raise PlanError(
                f"found inputs of the structure {found}, wanted that of the capture, with the inputs "
                f"{', '.join(self.inputs)}; call the model as it was captured, or capture it as it is called"
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
            "takes": self.takes,
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
            return cls(names, str(data["takes"]), data["returns"], constants, int(data["outputs"]))
        except (LookupError, TypeError, ValueError) as error:
            raise PlanError(f"how the program is called is damaged ({error!r}); run partition again") from error


def _dumped(spec: Any) -> str | None:
    try:
        return pytree.treespec_dumps(spec)
    except NotImplementedError:
        return None
