"""What a pass is, what it is given and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from graphopt.errors import PreconditionError, SpecError
from graphopt.pass_manager.options import check_kinds, pass_spec
from graphopt.plan import Plan
from graphopt.program import Program
from graphopt.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """What a pass may use besides the program.

    Attributes:
        calibration: Batches that can be gone through any number of times. A batch is a tuple of positional arguments,
            a mapping of keyword arguments, a single tensor, or a `graphopt.scores.Batch` where the loss needs a target.
        loss: `loss(output, batch)` returns a scalar tensor, smaller for a better output.
        seed: Seed of every random choice.
        fuel: How many rewrites may still be made, or None for any number. Halving it finds a rewrite that goes wrong.
        verify: Whether the laws are checked after each pass.
        schedule: What an earlier pass of the pipeline decided about steps, set by the pipeline.
    """

    calibration: Iterable[Any] | None = None
    loss: Callable[[Any, Any], Any] | None = None
    seed: int = 0
    fuel: int | None = None
    verify: bool = True
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if callable(self.calibration):
            raise PreconditionError(
                f"calibration is the function {getattr(self.calibration, '__name__', self.calibration)}, wanted its "
                "batches: call it"
            )
        if isinstance(self.calibration, Iterator):
            raise PreconditionError(
                f"calibration is {type(self.calibration).__name__}, which can be gone through once only, "
                "wanted batches that each pass can go through anew: pass list(...) of it, or a DataLoader"
            )
        if self.fuel is not None and self.fuel < 0:
            raise SpecError(f"fuel is {self.fuel}, wanted none or a number of rewrites from 0 up", option="fuel")

    def need_calibration(self, purpose: str) -> Iterable[Any]:
        """Return the calibration batches.

        Args:
            purpose: What needs them, for the message.

        Raises:
            PreconditionError: There are none.
        """
        if self.calibration is None:
            raise PreconditionError(f"{purpose} needs data and found none; pass calibration=<batches>")
        return self.calibration

    def need_loss(self, purpose: str) -> Callable[[Any, Any], Any]:
        """Return the loss.

        Args:
            purpose: What needs it, for the message.

        Raises:
            PreconditionError: There is none.
        """
        if self.loss is None:
            raise PreconditionError(f"{purpose} needs a loss and found none; pass loss=<function of output and batch>")
        return self.loss


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What a pass did, in figures and words.

    Attributes:
        name: Name of the pass.
        spec: Text that makes the pass again.
        before: Figures of the program it was given, unit in the name (`flops`, `size_bytes`).
        after: The same figures of the program it returned.
        seconds: How long it took; set by the pipeline.
        frozen: What could not be chosen from and why, one line each.
        refused: What was asked for and not done and why, one line each.
        notes: Anything else a reader should know, one line each.
    """

    name: str
    spec: str
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    frozen: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the spec, the figures before and after, and how much was frozen or refused, in a few lines."""
        pairs = ((name, value, self.after.get(name, value)) for name, value in self.before.items())
        figures = [f"  {name}: {_figure(before)} -> {_figure(after)}" for name, before, after in pairs]
        counts = f"  {len(self.frozen)} frozen, {len(self.refused)} refused, {len(self.notes)} notes"
        return "\n".join([self.spec, *figures, counts])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON knows."""
        lines = {key: list(value) for key, value in asdict(self).items() if isinstance(value, tuple)}
        return {**asdict(self), **lines, "before": dict(self.before), "after": dict(self.after)}


def _figure(value: float) -> str:
    """A figure as text: whole numbers with separators, others to three digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}"


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """What a pass returns.

    Attributes:
        program: The rewritten program, or the very program it was given where nothing changed.
        plan: Every decision so far in indices of the captured model; None where the pass decides nothing.
        changed: Whether the program differs from the one given.
        report: What was done.
        programs: Programs by id where the pass makes several (such as full and cached, or stages).
        schedule: Which program runs at which step, where the pass makes a schedule.
        fuel_used: How many rewrites were made; None counts one where something changed.
    """

    program: Program
    plan: Plan | None
    changed: bool
    report: PassReport
    programs: Mapping[str, Program] = field(default_factory=dict)
    schedule: Schedule | None = None
    fuel_used: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """A transformation of programs; the fields of the dataclass are its options.

    A subclass is a frozen, keyword-only dataclass too. Values of options are checked against their annotations when
    the pass is made; a subclass that checks ranges extends `__post_init__` and calls this one first.

    Attributes:
        name: What the text form calls it, in kebab-case.
        references: Papers it is made after.
        exact: Whether outputs stay what they were, up to the order of additions.
    """

    name: ClassVar[str]
    references: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_kinds(self)

    def __str__(self) -> str:
        """Return the text that makes this pass again."""
        return str(pass_spec(self))

    def check_option(self, name: str, *, holds: bool, wanted: str) -> None:
        """Refuse an option whose value is out of range.

        Args:
            name: The option.
            holds: Whether its value is in range.
            wanted: Which values are, for the message.

        Raises:
            SpecError: `holds` is false.
        """
        if not holds:
            found = getattr(self, name)
            raise SpecError(f"{self.name}: option {name}: found {found!r}, wanted {wanted}", option=name)

    def requires(self, program: Program) -> None:  # noqa: B027 - most passes take any program
        """Check that the program can be worked on.

        Args:
            program: What `run` is going to be given.

        Raises:
            PreconditionError: It cannot; the message says why.
        """

    @abstractmethod
    def run(self, program: Program, context: PassContext) -> PassResult:
        """Transform a program, leaving the given one and the user's weights as they are.

        Args:
            program: What to transform.
            context: Data, loss, seed and fuel.

        Raises:
            GraphoptError: The transformation is not possible.
        """

    def ensures(self, result: PassResult) -> None:  # noqa: B027 - the laws are checked by the pipeline
        """Check that the result holds what the pass promises.

        Args:
            result: What `run` returned.

        Raises:
            PostconditionError: It does not.
        """
