"""Evidence: what an importance is computed from, reduced once for each tensor dimension."""

from collections.abc import Callable, Container, Iterator, Mapping

import torch
from torch import Tensor

from graphopt.dependency.graph import Group, Member
from graphopt.errors import PreconditionError
from graphopt.scores.gradients import Gradients
from graphopt.scores.parameters import require_values

SLAB_ELEMENTS = 1 << 18
"""Elements that are held in float64 at a time, 2 MiB a tensor: what a processor keeps close by."""

Box = tuple[slice, ...]


class Slab:
    """A box of one parameter, in float64, with the gradient there: copies, which may be written to.

    The next slab of the same evidence takes their memory: new memory for each costs more than all that is computed.

    Args:
        evidence: Where it is cut from.
        name: Name of the parameter.
        box: A slice for each dimension.
    """

    def __init__(self, evidence: "Evidence", name: str, box: Box) -> None:
        self._evidence = evidence
        self._name = name
        self._box = box

    @property
    def weight(self) -> Tensor:
        """The parameter, in the shape of the box."""
        return self._cut(self._evidence.tensors, "weight")

    @property
    def gradient(self) -> Tensor:
        """Sum over batches of the gradient, in the shape of the box."""
        return self._cut(self._evidence.gradients.sums, "gradient")

    @property
    def squared_gradient(self) -> Tensor:
        """Sum over batches of the squared gradient, in the shape of the box."""
        return self._cut(self._evidence.gradients.squares, "squared gradient")

    def _cut(self, tensors: Mapping[str, Tensor], what: str) -> Tensor:
        if self._name not in tensors:
            raise PreconditionError(f"found no {what} of {self._name}; collect_gradients gives it")
        return self._evidence.copied(tensors[self._name].detach()[self._box], what)


Element = Callable[[Slab], Tensor]
"""What each element of a slab contributes, in the slab's shape. A function of a module: it is a key of the cache."""

NO_GRADIENTS = Gradients({}, {}, (), ())


class Evidence:
    """Parameters and gradients, and their sums over all dimensions but one, cached by tensor, dimension and element.

    One tensor dimension serves several groups, as when it is a product of heads and head dimensions: it is reduced
    once, in slabs, so that no copy of a whole tensor is made.

    Attributes:
        tensors: Scored parameters by name; members of other names, such as running statistics, count nothing.
        gradients: Gradients by the same names; empty where the importance needs none.
        norms: Names of the parameters that scale a normalisation.
        seed: Seed of random scores.
        notes: Remarks for the report, such as groups that were scored in another way.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        gradients: Gradients = NO_GRADIENTS,
        *,
        norms: frozenset[str] = frozenset(),
        seed: int = 0,
    ) -> None:
        self.tensors = tensors
        self.gradients = gradients
        self.norms = norms
        self.seed = seed
        self.notes: list[str] = []
        self._vectors: dict[tuple[str, int, Element], Tensor] = {}
        self._held: dict[tuple[str, torch.device], Tensor] = {}

    def members(self, group: Group, among: Container[str] | None = None) -> list[Member]:
        """Return the members of a group that are scored parameters, those of some names only where given."""
        names = self.tensors if among is None else among
        return [member for member in group.members if member.tensor in names]

    def total(
        self, group: Group, element: Element, *, absolute: bool = False, among: Container[str] | None = None
    ) -> Tensor:
        """Sum what elements contribute over everything a unit takes, in all members of the group.

        Args:
            group: The group.
            element: Contribution of each element.
            absolute: Take the absolute value of the sum over each flat index of a member before adding it up.
            among: Names of the parameters that count; all scored ones by default.

        Returns:
            float64 on the CPU, shape ``(group.size,)``.

        Raises:
            PreconditionError: A parameter or gradient holds NaN or infinity, or a gradient that is needed is missing.
        """
        scores = torch.zeros(group.size, dtype=torch.float64)
        for member in self.members(group, among):
            vector = self.vector(member.tensor, member.dim, element)
            taken = vector[torch.from_numpy(member.indices())]
            scores += (taken.abs() if absolute else taken).sum(dim=1)
        return scores

    def copied(self, part: Tensor, what: str) -> Tensor:
        """Return a box of a tensor in float64, in memory that is kept for such boxes.

        Args:
            part: At most `SLAB_ELEMENTS` elements.
            what: What the tensor is of its parameter.
        """
        place = (what, part.device)
        if place not in self._held:
            self._held[place] = torch.empty(SLAB_ELEMENTS, dtype=torch.float64, device=part.device)
        return self._held[place][: part.numel()].view(part.shape).copy_(part)

    def vector(self, name: str, dim: int, element: Element) -> Tensor:
        """Return contributions of a parameter summed over all dimensions but one, float64 of shape ``(size,)``."""
        key = (name, dim, element)
        if key not in self._vectors:
            # Who asks for one of the first two dimensions asks for the other, so that one walk serves both.
            dims = {dim, *range(min(2, self.tensors[name].ndim))}
            self._reduce(name, [each for each in dims if (name, each, element) not in self._vectors], element)
        return self._vectors[key]

    def _reduce(self, name: str, dims: list[int], element: Element) -> None:
        """Find the sums for some dimensions of a parameter, in one walk over it."""
        shape = tuple(self.tensors[name].shape)
        vectors = {dim: torch.zeros(shape[dim], dtype=torch.float64) for dim in dims}
        for box in boxes(shape):
            terms = element(Slab(self, name, box))
            for dim, vector in vectors.items():
                vector[box[dim]] += _sum_beside(terms, dim).cpu()
        for dim, vector in vectors.items():
            if not bool(vector.isfinite().all()):
                self._blame(name)
            self._vectors[name, dim, element] = vector

    def _blame(self, name: str) -> None:
        """Say which tensor of a parameter is not finite."""
        require_values(name, self.tensors[name], "parameter")
        for tensors, what in ((self.gradients.sums, "gradient of"), (self.gradients.squares, "squared gradient of")):
            if name in tensors:
                require_values(name, tensors[name], what)
        raise PreconditionError(f"the score of parameter {name} overflows float64; its values are too large to rank")


def _sum_beside(terms: Tensor, dim: int) -> Tensor:
    """Sum over all dimensions but one, those before it as one and those after it as one: in the order of the memory."""
    if dim:
        terms = terms.flatten(0, dim - 1).sum(dim=0)
    return terms.flatten(1).sum(dim=1) if terms.ndim > 1 else terms


def boxes(shape: tuple[int, ...], limit: int = SLAB_ELEMENTS) -> Iterator[Box]:
    """Cut a shape into boxes of at most `limit` elements by halving the longest dimension."""
    yield from _halved(tuple(slice(0, size) for size in shape), limit)


def _halved(box: Box, limit: int) -> Iterator[Box]:
    lengths = [part.stop - part.start for part in box]
    elements = 1
    for length in lengths:
        elements *= length
    if elements <= limit:
        yield box
        return
    longest = max(range(len(box)), key=lengths.__getitem__)
    part = box[longest]
    middle = part.start + lengths[longest] // 2
    for half in (slice(part.start, middle), slice(middle, part.stop)):
        yield from _halved((*box[:longest], half, *box[longest + 1 :]), limit)
