"""Which nodes of a program are divided among devices, which are done anew on each, and which have to stay together."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.regions.flow import READS_NO_DATA
from graphopt.regions.sample import SampleFlow
from graphopt.values import is_number, value_of


class NodeKinds:
    """The nodes of a program by what is done with them.

    Attributes:
        flow: the sample's flow.
        divided: operators that one device computes, in a topological order: what depends on the sample, draws random
            numbers or writes to state.
        place: place of each of them in that order.
        side: other operators that read an input, such as a timestep's embedding.
        constant: other operators that give tensors.

    Args:
        program: the program.
        sample: name of the input that changes from step to step; the one most like the output by default.
        front: names of side nodes to be divided too; they come first.

    Raises:
        PlanError: no operator depends on the sample.
    """

    def __init__(self, program: Program, sample: str | None = None, front: Collection[str] = ()) -> None:
        self.flow = SampleFlow(program, sample)
        sources = [self.flow.sample, *(node for node in self.flow.nodes if self._is_single(node))]
        reached = self.flow.reached_from(sources)
        operators = [node for node in self.flow.nodes if node.op == "call_function"]
        ahead = [node for node in operators if node.name in front and node not in reached]
        self.divided = (*ahead, *(node for node in operators if node in reached))
        if not self.divided:
            raise PlanError(
                f"found no operator that depends on the input {self.flow.sample.name!r}, wanted a program to divide; "
                "pass sample= as the input that changes from step to step"
            )
        self.place = {node: place for place, node in enumerate(self.divided)}
        rest = [node for node in operators if node not in self.place and not is_number(node)]
        self.side = frozenset(node for node in rest if node in self.flow.from_inputs)
        self.constant = frozenset(node for node in rest if node not in self.flow.from_inputs)

    def data_operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes whose values an operator reads; none where it only asks for sizes."""
        return [] if packet_of(node) in READS_NO_DATA else list(node.all_input_nodes)

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that read a value's data, the program's output among them."""
        return [user for user in node.users if packet_of(user) not in READS_NO_DATA]

    def glued(self) -> Iterator[tuple[int, int]]:
        """Yield first and last place of stretches that one device has to compute whole.

        These are memory from where it is made to the last write into it, state and inputs that are written to from the
        first to the last reader, several results at once with those who pick one of them, and numbers that follow from
        data with their readers: such numbers are not sent.
        """
        for operator, targets in self.flow.writers.items():
            for target in targets if operator in self.place else ():
                yield from self._written(operator, target)
        for node, place in self.place.items():
            if not isinstance(value_of(node), torch.Tensor):
                yield place, max((self.place.get(user, place) for user in node.users), default=place)

    def _written(self, operator: fx.Node, target: fx.Node) -> Iterator[tuple[int, int]]:
        holders = self.flow.holders[target]
        places = [self.place[holder] for holder in holders if holder in self.place]
        places.append(self.place[operator])
        if any(holder not in self.place for holder in holders):
            users = [user for holder in holders for user in holder.users if user in self.place]
            places += [self.place[user] for user in users]
            yield min(places), max(places)
        else:
            yield min(places), self.place[operator]

    def _is_single(self, node: fx.Node) -> bool:
        """Tell whether an operator must not be done twice: it draws random numbers, or writes to lasting memory."""
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags:
            return True
        kept = (holder for operand in self.flow.writers.get(node, ()) for holder in self.flow.holders[operand])
        return any(holder.op != "call_function" for holder in kept)
