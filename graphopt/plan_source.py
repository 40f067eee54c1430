"""What a plan was made for: the tensors and operators of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.assembly import named_attributes
from graphopt.program import Program


@dataclass(frozen=True)
class PlanSource:
    """The model that a plan was made for.

    Attributes:
        class_name: class of the model.
        fingerprint: SHA-256 over names, shapes and dtypes of the tensors and over the operators.
        tensors: shape of every parameter and buffer by name.
        operators: how often each operator occurs.
        unsaved: names of buffers and constants that the model makes itself, so that no state dict holds them.
    """

    class_name: str
    fingerprint: str
    tensors: Mapping[str, tuple[int, ...]]
    operators: Mapping[str, int]
    unsaved: tuple[str, ...] = ()

    @classmethod
    def of(cls, program: Program) -> PlanSource:
        """Describe a captured program."""
        operators = Counter(str(node.target) for node in program.nodes() if node.op == "call_function")
        return cls(
            program.source.class_name,
            program.source.fingerprint,
            {name: tuple(tensor.shape) for name, tensor in program.parameters.items()},
            dict(sorted(operators.items())),
            tuple(name for name, held in named_attributes(program.graph_module).items() if not held.persistent),
        )

    def first_difference(self, other: PlanSource) -> str:
        """The first fact in which two models differ."""
        for name in sorted(self.tensors.keys() | other.tensors.keys()):
            if name not in other.tensors:
                return f"the plan's model has {name}, this one does not"
            if name not in self.tensors:
                return f"this model has {name}, the plan's does not"
        for name, shape in self.tensors.items():
            if shape != other.tensors[name]:
                return f"{name} is {list(shape)} in the plan's model and {list(other.tensors[name])} in this one"
        for name in sorted(self.operators.keys() | other.operators.keys()):
            mine, theirs = self.operators.get(name, 0), other.operators.get(name, 0)
            if mine != theirs:
                return f"the plan's model calls {name} {mine} times, this one {theirs} times"
        return "the same tensors and operators are wired differently, or are of other types or constants"
