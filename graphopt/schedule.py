"""Schedules: which program runs at which step, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from graphopt.cuts import Cut
from graphopt.errors import PlanError

FULL, CACHED, REFRESH = "full", "cached", "refresh"
"""Ids of the programs that compute everything, that read every slot, and that renew predictors."""

PROBE, TAIL_FULL, TAIL_CACHED = "probe", "tail-full", "tail-cached"
"""Ids of the programs of a threshold: what decides, and what follows it."""

ELAPSED = "cache_elapsed"
"""Extra input of programs with a predictor: steps since the slots were last filled, a scalar tensor."""

UPDATES = "cache_updates"
"""Extra input of programs that renew a predictor: how often the slots were filled before, a scalar tensor."""

DISTANCE = "cache_distance"
"""Extra output of a probe: relative L1 distance of its slot from the stored one, a scalar tensor."""


TIMESTEP_NAMES = ("timestep", "timesteps", "t", "sigma")
"""What denoisers call the argument that says where they are."""


@dataclass(frozen=True)
class Slot:
    """What one cut keeps.

    Attributes:
        cut: where the program is cut.
        order: order of the predictor: 0 reuses the value as it was stored, 1 extrapolates a line through the last two
            stored, k a Taylor series whose derivatives are backward differences of the last k + 1.
        lasting: whether it is kept for later steps; if not, one program hands it to others of the same step.
    """

    cut: Cut
    order: int = 0
    lasting: bool = True

    def tensors(self, name: str) -> tuple[str, ...]:
        """Names of the tensors that a slot of this name keeps: the value and its backward differences."""
        return (name, *(f"{name}_d{order}" for order in range(1, self.order + 1)))


def slots_of(cuts: Iterable[Cut], order: int = 0) -> dict[str, Slot]:
    """A slot for each cut, named by its number.

    Args:
        cuts: what is kept.
        order: order of the predictor of all of them.
    """
    return {f"cache_{number}": Slot(cut, order) for number, cut in enumerate(cuts)}


@dataclass(frozen=True)
class StepProgram:
    """What a program does with the slots.

    Attributes:
        reads: slots whose values it takes instead of computing them.
        writes: slots that it fills.
        renews: slots that it fills from the new value and what they held before, as predictors need.
        measures: slots whose distance from the stored value it returns, beside filling them.
        returns: whether it gives the model's output; a probe does not.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    renews: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    returns: bool = True


@dataclass(frozen=True)
class Every:
    """Full steps at a fixed distance, cached ones between.

    A step is full where it is one of the first ``warm_up``, or one from ``until`` on, or where
    ``(step - warm_up - offset) % interval == 0``.

    Attributes:
        interval: distance of the full steps; 1 never caches.
        warm_up: number of first steps that are all full.
        offset: shift of the full steps after the warm-up.
        until: from this step on all are full; None for no such step.
    """

    kind: ClassVar[str] = "every"
    interval: int
    warm_up: int = 0
    offset: int = 0
    until: int | None = None

    def is_full(self, step: int) -> bool:
        """Tell whether a step is full."""
        if step < self.warm_up or (self.until is not None and step >= self.until):
            return True
        return (step - self.warm_up - self.offset) % self.interval == 0


@dataclass(frozen=True)
class Listed:
    """The program of every step, written out.

    Attributes:
        programs: id of the program by step.
        beyond: id of the program of all steps behind these.
    """

    kind: ClassVar[str] = "listed"
    programs: tuple[str, ...]
    beyond: str = FULL


@dataclass(frozen=True)
class Periods:
    """Every slot is computed anew after its own number of steps, while the timestep is in a window.

    Attributes:
        periods: number of steps by slot; a slot is filled at step 0 and at multiples of it, and read otherwise.
        window: timesteps ``(low, high)`` between which slots are read, both excluded; None for all.
    """

    kind: ClassVar[str] = "periods"
    periods: Mapping[str, int]
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Threshold:
    """A probe runs first; the cached tail follows where the probe moved little since the last full step.

    Attributes:
        threshold: relative L1 distance up to which slots are read.
        warm_up: number of first steps that are all full.
        max_consecutive: cached steps in a row at most; None for any number.
        max_cached: cached steps of a generation at most; None for any number.
    """

    kind: ClassVar[str] = "threshold"
    threshold: float
    warm_up: int = 0
    max_consecutive: int | None = None
    max_cached: int | None = None


Policy = Every | Listed | Periods | Threshold
POLICIES: dict[str, type[Policy]] = {policy.kind: policy for policy in (Every, Listed, Periods, Threshold)}


@dataclass(frozen=True)
class Schedule:
    """Everything a runtime needs besides the programs.

    Programs are called like the model, with the tensors of the slots that they read as extra keyword inputs. They
    return a pair: the model's own output (None where they do not return it), and a mapping of what they filled.

    Attributes:
        slots: what each cut keeps, by name of the slot.
        programs: what each program does, by id. There is always ``full``, which reads only hoisted slots.
        policy: which program runs when.
        last_full: whether the last step is full, where the number of steps is known.
        hoisted: programs that run before a step, in this order, and only where one of these inputs of the model has
            changed; by id. They fill slots that the programs of every step read.
        timestep: the input of the model that tells the timestep, by the name of its placeholder; None where no program
            and no policy asks.
        fused: kernels that the programs which read slots call, by name, instead of the operators that they stand for.
    """

    slots: Mapping[str, Slot] = field(default_factory=dict)
    programs: Mapping[str, StepProgram] = field(default_factory=dict)
    policy: Policy = field(default_factory=lambda: Every(1))
    last_full: bool = False
    hoisted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timestep: str | None = None
    fused: tuple[str, ...] = ()

    def inputs(self, program: str) -> tuple[str, ...]:
        """Names of the extra keyword inputs of a program."""
        step = self.programs[program]
        names = [name for slot in step.reads for name in self.slots[slot].tensors(slot)]
        names += [name for slot in step.renews for name in self.slots[slot].tensors(slot)[:-1] if name not in names]
        names += [slot for slot in step.measures if slot not in names]
        predicts = [slot for slot in (*step.reads, *step.renews) if self.slots[slot].order]
        names += [ELAPSED] if predicts else []
        names += [UPDATES] if step.renews else []
        return tuple(names)

    def outputs(self, program: str) -> tuple[str, ...]:
        """Keys of the mapping that a program returns."""
        step = self.programs[program]
        names = [*step.writes]
        names += [name for slot in step.renews for name in self.slots[slot].tensors(slot)]
        names += [DISTANCE] if step.measures else []
        return tuple(names)

    def program_at(self, step: int, steps: int | None = None) -> str:
        """Id of the program of a step, where nothing has to be known of the steps before.

        Args:
            step: number of the step, from 0.
            steps: number of all steps, None where it is not known.

        Raises:
            PlanError: the policy decides at run time.
        """
        policy = self.policy
        if isinstance(policy, Threshold) or (isinstance(policy, Periods) and policy.window is not None):
            raise PlanError(f"the policy {policy.kind} decides at run time which program a step runs")
        if step == 0 or (self.last_full and steps is not None and step >= steps - 1):
            return FULL
        if isinstance(policy, Every):
            return FULL if policy.is_full(step) else CACHED
        if isinstance(policy, Listed):
            return policy.programs[step] if step < len(policy.programs) else policy.beyond
        return self.reading(frozenset(slot for slot, period in policy.periods.items() if step % period))

    def reading(self, slots: frozenset[str]) -> str:
        """Id of the program that reads just these slots.

        Raises:
            PlanError: there is none.
        """
        for name, step in self.programs.items():
            if step.returns and frozenset(step.reads) - self.hoisted_slots() == slots:
                return name
        raise PlanError(f"no program of the schedule reads just {sorted(slots)}; insert the cache again")

    def hoisted_slots(self) -> frozenset[str]:
        """Slots that hoisted programs fill."""
        return frozenset(slot for name in self.hoisted for slot in self.programs[name].writes)

    def extends(self, earlier: Schedule) -> bool:
        """Tell whether this schedule still does all that an earlier one did: same cuts, same programs at same steps."""
        lasting = {name: slot for name, slot in earlier.slots.items() if slot.lasting}
        same_slots = all(self.slots.get(name) == slot for name, slot in lasting.items())
        same_kernels = set(earlier.fused) <= set(self.fused)
        same_programs = self.policy == earlier.policy and earlier.programs.keys() <= self.programs.keys()
        return same_slots and same_kernels and same_programs

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        policy = {"kind": self.policy.kind, **asdict(self.policy)}
        return {
            "slots": {name: {**asdict(slot), "cut": slot.cut.to_dict()} for name, slot in self.slots.items()},
            "programs": {name: _plain(asdict(step)) for name, step in self.programs.items()},
            "policy": _plain(policy),
            "last_full": self.last_full,
            "hoisted": _plain(self.hoisted),
            "timestep": self.timestep,
            "fused": list(self.fused),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Schedule:
        """Read the JSON form.

        Raises:
            PlanError: it is no schedule.
        """
        try:
            policy = dict(data["policy"])
            kind = POLICIES[policy.pop("kind")]
            slots = {name: _slot_from_dict(item) for name, item in data["slots"].items()}
            programs = {name: StepProgram(**_frozen(item)) for name, item in data["programs"].items()}
            hoisted = _frozen(data["hoisted"])
            made = cls(
                slots,
                programs,
                kind(**_frozen(policy)),
                bool(data["last_full"]),
                hoisted,
                data["timestep"],
                tuple(map(str, data.get("fused", ()))),  # plans of before there were kernels
            )
            made._require_whole()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"the schedule is damaged: {type(error).__name__} at {error}; write it again") from error
        return made

    def _require_whole(self) -> None:
        """Refuse names that stand for nothing, and a distance of no steps.

        Raises:
            ValueError: there is one.
        """
        named = {FULL, *self.hoisted}
        if isinstance(self.policy, Listed):
            named |= {*self.policy.programs, self.policy.beyond}
        used = [slot for step in self.programs.values() for slot in (*step.reads, *step.writes, *step.renews)]
        used += [*self.policy.periods] if isinstance(self.policy, Periods) else []
        strangers = sorted(named - self.programs.keys()) + [slot for slot in used if slot not in self.slots]
        if strangers:
            raise ValueError(f"{strangers[0]!r}, which it names and does not have")
        distances = [*self.policy.periods.values()] if isinstance(self.policy, Periods) else []
        distances += [self.policy.interval] if isinstance(self.policy, Every) else []
        if any(distance < 1 for distance in distances):
            raise ValueError(f"the distance {min(distances)} of two full steps")


def _slot_from_dict(data: Mapping[str, Any]) -> Slot:
    return Slot(Cut.from_dict(data["cut"]), int(data["order"]), bool(data["lasting"]))


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


def _frozen(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
