"""The pipeline whose slowest stage is fastest, by dynamic programming over a topological order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from graphopt.errors import PlanError
from graphopt.partition.workload import Numbers

State = tuple[int, ...]

MAX_STATES = 1024
"""Most sets of devices that a plan in free order goes through: 8 unequal devices have 256."""

SLACK = 1e-9
"""By what share of the optimum a stage may be slower and still count as optimal."""


@dataclass(frozen=True)
class Cuts:
    """A pipeline.

    Attributes:
        starts: first item of every stage.
        kinds: kind of device of every stage.
        value: the largest cost of a stage.
    """

    starts: tuple[int, ...]
    kinds: tuple[int, ...]
    value: float

    def stages(self, items: int) -> tuple[int, ...]:
        """Return the stage of every item."""
        return tuple(int(stage) for stage in np.searchsorted(self.starts, np.arange(items), side="right") - 1)


@dataclass(frozen=True)
class Seats:
    """In which orders devices may take the stages.

    Attributes:
        kinds: kind of each device, as a number; devices of a kind are alike.
        free: whether any order is allowed, or only the one given.
    """

    kinds: tuple[int, ...]
    free: bool = True

    def __post_init__(self) -> None:
        """Refuse too many orders.

        Raises:
            PlanError: there are more sets of devices than `MAX_STATES`.
        """
        if self.free and np.prod([count + 1.0 for count in Counter(self.kinds).values()]) > MAX_STATES:
            raise PlanError(
                f"found {len(self.kinds)} devices of {len(set(self.kinds))} kinds in free order, wanted 8 unequal "
                "ones at most; fix their order, or treat similar ones as equal"
            )

    @property
    def full(self) -> State:
        """All devices."""
        return self._state(self.kinds)

    def states(self) -> Iterator[State]:
        """Yield sets of devices that the first stages may have, each after its subsets; the empty one is left out."""
        if not self.free:
            yield from (self._state(self.kinds[: count + 1]) for count in range(len(self.kinds)))
            return
        for state in product(*(range(count + 1) for count in self.full)):
            if any(state):
                yield state

    def moves(self, state: State) -> Iterator[tuple[int, State]]:
        """Yield the kinds that the last stage of a set may have, with the set of the stages before it."""
        kinds = range(len(state)) if self.free else [self.kinds[sum(state) - 1]]
        for kind in kinds:
            if state[kind]:
                yield kind, (*state[:kind], state[kind] - 1, *state[kind + 1 :])

    def _state(self, kinds: Sequence[int]) -> State:
        return tuple(kinds.count(kind) for kind in range(max(self.kinds) + 1))


def fastest_cuts(costs: Sequence[Numbers], size_bytes: Numbers, seats: Seats) -> Cuts | None:
    """Return the pipeline whose largest stage cost is least; among those the one with the fewest bytes.

    Args:
        costs: one matrix a kind of device, (items + 1, items + 1): cost of the stage ``[i, j)``, infinite where it is
            not allowed.
        size_bytes: (items + 1, items + 1), bytes that such a stage receives.
        seats: which device may take which stage.

    Returns:
        None where no pipeline is allowed.

    References:
        The recurrence is the classic one of chains on chains (Bokhari, Partitioning Problems in Parallel, Pipelined,
        and Distributed Computing, IEEE Transactions on Computers 37(1), 1988); costs that hang on both ends of a stage
        and sets of unequal devices are ours to add, and leave it exact for the order given. A search for the bound with
        a greedy filling would not be: the time of receiving does not grow with the length of a stage.
    """
    best = least_maxima(costs, seats)
    value = float(best[seats.full][-1])
    if not np.isfinite(value):
        return None
    return _fewest_bytes(costs, size_bytes, seats, value)


def least_maxima(costs: Sequence[Numbers], seats: Seats, start: int = 0) -> dict[State, Numbers]:
    """Return for each set of devices and each end the least largest cost of stages over the items from a start on.

    Args:
        costs: see `fastest_cuts`.
        seats: which device may take which stage.
        start: first item of the first stage.

    Returns:
        (items + 1,) a set; infinite where no stages are allowed.
    """
    best: dict[State, Numbers] = {}
    for state in seats.states():
        if sum(state) == 1:
            best[state] = costs[state.index(1)][start]
            continue
        rows = [np.maximum(best[left][:, None], costs[kind]).min(axis=0) for kind, left in seats.moves(state)]
        best[state] = np.min(rows, axis=0)
    return best


def _fewest_bytes(costs: Sequence[Numbers], size_bytes: Numbers, seats: Seats, value: float) -> Cuts:
    """Return the pipeline with the fewest bytes among those that keep all stages within a cost."""
    weights = [np.where(cost <= value * (1 + SLACK), size_bytes, np.inf) for cost in costs]
    least: dict[State, Numbers] = {}
    chosen: dict[State, tuple[Numbers, Numbers]] = {}
    for state in seats.states():
        if sum(state) == 1:
            least[state] = weights[state.index(1)][0]
            continue
        moves = list(seats.moves(state))
        sums = [least[left][:, None] + weights[kind] for kind, left in moves]
        rows = np.array([each.min(axis=0) for each in sums])
        kinds = rows.argmin(axis=0)
        starts = np.array([each.argmin(axis=0) for each in sums])
        least[state] = rows.min(axis=0)
        chosen[state] = np.array([kind for kind, _ in moves])[kinds], starts[kinds, np.arange(len(kinds))]
    return _followed(chosen, seats, costs, value)


def _followed(
    chosen: Mapping[State, tuple[Numbers, Numbers]], seats: Seats, costs: Sequence[Numbers], value: float
) -> Cuts:
    """Walk back from the last stage to the first."""
    state, end = seats.full, len(costs[0]) - 1
    starts: list[int] = []
    kinds: list[int] = []
    while sum(state) > 1:
        kind, start = (int(column[end]) for column in chosen[state])
        state = next(left for other, left in seats.moves(state) if other == kind)
        kinds.append(kind)
        starts.append(start)
        end = start
    return Cuts((0, *reversed(starts)), (state.index(1), *reversed(kinds)), value)
