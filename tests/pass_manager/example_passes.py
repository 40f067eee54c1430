"""Passes that the tests of the pass manager run."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.errors import BudgetError, PostconditionError, PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassReport, PassResult
from graphopt.program import Program


@dataclass(frozen=True, kw_only=True)
class Scale(Pass):
    """Has an option of every kind, and changes nothing."""

    name: ClassVar[str] = "scale"
    references: ClassVar[tuple[str, ...]] = ("nobody, nowhere",)

    ratio: float = 0.5
    round_to: int | None = None
    importance: Literal["l1", "taylor", "a b"] = "l1"
    ignore: tuple[str, ...] = ()
    widths: tuple[int, ...] = (1, 2)
    deep: bool = False
    label: str = ""
    target: int | float | str | None = 0
    pairs: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("ratio", holds=0 <= self.ratio < 1, wanted="a number from 0 up to 1, 1 left out")

    def run(self, program: Program, context: PassContext) -> PassResult:
        return PassResult(program=program, plan=None, changed=False, report=report_of(self))


@dataclass(frozen=True, kw_only=True)
class Step(Pass):
    """Returns the program anew, or fails in the way asked for."""

    name: ClassVar[str] = "step"

    label: str
    fails: Literal["no", "requires", "budget", "crash", "ensures", "type", "lie", "greedy"] = "no"
    burns: int | None = None
    several: bool = False

    def requires(self, program: Program) -> None:
        if self.fails == "requires":
            raise PreconditionError("not this program")

    def run(self, program: Program, context: PassContext) -> PassResult:
        if self.fails == "budget":
            raise BudgetError("too little")
        if self.fails == "crash":
            raise KeyError("lost")
        changed = self.fails != "lie"
        burns = context.fuel + 1 if self.fails == "greedy" and context.fuel is not None else self.burns
        after = Program(program.graph_module, program.args, program.kwargs, program.source, program.dynamic_batch)
        report = PassReport(name=self.name, spec=str(self), before={"flops": 2.0}, after={"flops": 1.0})
        programs = {"full": program, "cached": after} if self.several else {}
        return PassResult(program=after, plan=None, changed=changed, report=report, programs=programs, fuel_used=burns)

    def ensures(self, result: PassResult) -> None:
        if self.fails == "ensures":
            raise PostconditionError("not that result")


@dataclass(frozen=True, kw_only=True)
class Untyped(Pass):
    """Has an option without a text form."""

    name: ClassVar[str] = "untyped"

    weights: dict[str, int]

    def run(self, program: Program, context: PassContext) -> PassResult:
        return PassResult(program=program, plan=None, changed=False, report=report_of(self))


class NotAPass:
    """No pass at all."""


def report_of(pass_: Pass) -> PassReport:
    return PassReport(name=pass_.name, spec=str(pass_))
