"""Law 1 on branches and blocks that are left out: the original with them silenced against the rewritten program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import written_attributes
from graphopt.assembly import Attribute
from graphopt.copying import copy_graph
from graphopt.errors import VerificationError
from graphopt.program import Bypass, Program
from graphopt.proof.check import Check, equal, inputs_of
from graphopt.proof.comparison import TOLERANCE, Comparison, compared
from graphopt.proof.randomise import random_parameters
from graphopt.regions.sample import is_addition

ATTEMPTS = 3


class Silenced(fx.Interpreter):
    """Runs a whole graph node by node with some branches and blocks silenced; nothing is rewritten.

    A residual add is given zeros instead of its branch; any other value that a bypass replaces is put down as what
    stands for it, once it would be computed.

    Args:
        graph_module: the graph.
        bypasses: what is silenced.
    """

    def __init__(self, graph_module: fx.GraphModule, bypasses: Sequence[Bypass]) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        place = {node.name: index for index, node in enumerate(graph_module.graph.nodes)}
        self.named = {node.name: node for node in graph_module.graph.nodes}
        self.sources: dict[str, str] = {}
        for output, source in (pair for one in bypasses for pair in one.replaced.items()):
            self.sources[output] = min(source, self.sources.get(output, source), key=place.__getitem__)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, or put down what stands for it."""
        source = self.sources.get(n.name)
        if source is None:
            return super().run_node(n)
        operands = [operand.name for operand in n.all_input_nodes]
        if not is_addition(n) or source not in operands or len(operands) != 2:
            return self.env[self.named[source]]
        target: Any = n.target
        return target(*(self._operand(operand, source) for operand in n.args))

    def _operand(self, operand: Any, source: str) -> Tensor:
        value: Tensor = self.env[operand]
        return value if operand.name == source else torch.zeros_like(value)


def check_bypasses(origin: Program, rewritten: Program, bypasses: Sequence[Bypass], seed: int, detail: str) -> Check:
    """Check that the rewritten program is the original with branches and blocks silenced.

    Args:
        origin: the captured program.
        rewritten: the same without the branches and blocks, unsliced.
        bypasses: what was left out.
        seed: seed of the random parameters.
        detail: what is compared, for the report.

    Raises:
        VerificationError: the two differ, or silencing has no effect on the outputs.
    """
    comparison = Comparison(math.nan, math.nan, 0)
    for attempt in range(ATTEMPTS + 1):
        values = origin.parameters
        if attempt < ATTEMPTS:
            values = random_parameters(values, seed + attempt, masks=attempt > 0)
        comparison = compared(_run(origin, values, ()), _run(origin, values, bypasses), _run(rewritten, values, ()))
        if comparison.effect > 0 and math.isfinite(comparison.error):
            break
    if not (comparison.effect > 0 and math.isfinite(comparison.error)):
        raise VerificationError(
            f"mask equals bypass, {detail}: not proved, since leaving it out has no effect on the outputs, or they are "
            "not finite; nothing can be said about this rewrite"
        )
    if comparison.error >= TOLERANCE:
        raise VerificationError(
            f"mask equals bypass, {detail}: the rewritten program differs from the silenced original by "
            f"{comparison.error:.2e} of the silencing's effect, wanted below {TOLERANCE:.0e}; please report it "
            "with the model"
        )
    return Check("mask equals bypass", comparison.error, detail)


def check_remaining(origin: Program, rewritten: Program, bypasses: Sequence[Bypass], *, trained: bool) -> Check:
    """Check that what remains is bit-equal to the original's, and that only what the plan says is gone.

    Args:
        origin: the captured program.
        rewritten: the same without the branches and blocks, unsliced.
        bypasses: what was left out.
        trained: the weights were trained since, so only shapes are compared.

    Raises:
        VerificationError: a tensor changed, or other tensors left than the plan says.
    """
    gone = {name for one in bypasses for name in one.tensors}
    left = origin.parameters.keys() - rewritten.parameters.keys()
    if gone != left:
        name = sorted(gone ^ left)[0]
        raise VerificationError(
            f"weights: {name} is {'missing, though the plan keeps it' if name in left else 'there, though it left'}"
        )
    for name, tensor in rewritten.parameters.items():
        wanted = origin.parameters.get(name)
        same = wanted is None or (tensor.shape == wanted.shape if trained else equal(tensor, wanted))
        if not same:
            raise VerificationError(
                f"weights: {name} is not the original's; if the result was trained, verify with trained=True"
            )
    found = f"{len(rewritten.parameters)} tensors {'have the shapes of' if trained else 'are'} the original's"
    return Check("weights", 0.0, f"{found}, {len(gone)} left")


def _run(program: Program, values: Mapping[str, Tensor], bypasses: Sequence[Bypass]) -> list[Tensor]:
    """Outputs of a program with other weights; state it writes to is a copy."""
    written = written_attributes(program.graph_module)
    copied = copy_graph(program.graph_module)
    for name, attribute in copied.attributes.items():
        if name in values:
            value = values[name].detach().clone() if name in written else values[name]
            copied.attributes[name] = Attribute(value, attribute.persistent)
    leaves = pytree.tree_map_only(Tensor, torch.clone, inputs_of(program).leaves())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = Silenced(copied.assemble(), bypasses).run(*leaves, enable_io_processing=False)
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
