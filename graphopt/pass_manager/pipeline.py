"""Pipelines: passes run one after the other, watched by instruments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from graphopt.errors import GraphoptError, PassError, PostconditionError, PreconditionError, SpecError
from graphopt.pass_manager.base import Pass, PassContext, PassReport, PassResult
from graphopt.pass_manager.instruments import FuelInstrument, Instrument, VerifyInstrument
from graphopt.pass_manager.reader import read_pipeline
from graphopt.pass_manager.result import Report, Result
from graphopt.plan import Plan
from graphopt.program import Program
from graphopt.schedule import Schedule


class Pipeline:
    """Passes in the order they run; `str` of it is the text that makes it again.

    Args:
        passes: The text form, one pass, or a sequence of passes.

    Attributes:
        passes: The passes.

    Raises:
        SpecError: The text is wrong, or there is no pass.
    """

    def __init__(self, passes: str | Pass | Sequence[Pass]) -> None:
        self.passes = _as_passes(passes)
        if not self.passes:
            raise SpecError("found a pipeline without a pass, wanted at least one, such as prune-channels{ratio=0.5}")

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def __repr__(self) -> str:
        return f"Pipeline({str(self)!r})"

    def run(
        self, program: Program, context: PassContext | None = None, *, instruments: Sequence[Instrument] = ()
    ) -> Result:
        """Run the passes.

        Args:
            program: What the first pass is given.
            context: Data, loss, seed and fuel for all passes.
            instruments: What watches, besides the verification that `context.verify` asks for.

        Raises:
            PassError: A pass failed with an error that is not graphopt's own, or broke what it promised; the message
                names it and the passes run before it.
            GraphoptError: A pass failed; a note on the error names it and the passes run before it.
        """
        context = PassContext() if context is None else context
        watching = (*instruments, VerifyInstrument()) if context.verify else tuple(instruments)
        fuel = FuelInstrument(context.fuel)
        state = _State(program)
        for index, pass_ in enumerate(self.passes):
            if fuel.left == 0:
                state = state.skip(pass_)
                continue
            try:
                result = _run_pass(
                    pass_, state, replace(context, fuel=fuel.left, schedule=state.schedule), (fuel, *watching)
                )
            except GraphoptError as error:
                error.add_note(self._place(index))
                raise
            except Exception as error:
                message = f"{pass_.name} failed with {type(error).__name__}: {error}; {self._place(index)}"
                raise PassError(message) from error
            state = state.advance(result)
        return state.finish()

    def _place(self, index: int) -> str:
        before = ",".join(map(str, self.passes[:index])) or "nothing"
        return f"in pass {index + 1} of {len(self.passes)}, {self.passes[index]}; run before it: {before}"


@dataclass(frozen=True, eq=False)
class _State:
    """What has come of the passes run so far; a plan is cumulative, so the last one is the whole."""

    program: Program
    programs: Mapping[str, Program] = field(default_factory=dict)
    plan: Plan | None = None
    schedule: Schedule | None = None
    reports: tuple[PassReport, ...] = ()
    ran: tuple[str, ...] = ()

    def advance(self, result: PassResult) -> "_State":
        return _State(
            program=result.program,
            programs=result.programs or self.programs,
            plan=self.plan if result.plan is None else result.plan,
            schedule=self.schedule if result.schedule is None else result.schedule,
            reports=(*self.reports, result.report),
            ran=(*self.ran, result.report.spec),
        )

    def skip(self, pass_: Pass) -> "_State":
        report = PassReport(name=pass_.name, spec=str(pass_), refused=("not run: no fuel left",))
        return replace(self, reports=(*self.reports, report))

    def finish(self) -> Result:
        return Result(
            program=self.program,
            programs=self.programs or {"main": self.program},
            plan=None if self.plan is None else replace(self.plan, passes=self.ran),
            schedule=self.schedule,
            report=Report(self.reports),
        )


def _as_passes(passes: str | Pass | Sequence[Pass]) -> tuple[Pass, ...]:
    if isinstance(passes, str):
        return read_pipeline(passes)
    found: Sequence[object] = passes if isinstance(passes, list | tuple) else (passes,)
    strangers = [item for item in found if not isinstance(item, Pass)]
    if strangers:
        raise SpecError(f"found {strangers[0]!r} in a pipeline, wanted passes, or one text for all of them")
    return tuple(item for item in found if isinstance(item, Pass))


def _run_pass(pass_: Pass, state: _State, context: PassContext, instruments: Sequence[Instrument]) -> PassResult:
    program = state.program
    if state.plan is not None and state.plan.partition is not None:
        raise PreconditionError(
            f"{pass_.name} comes after partition, whose plan is for the program as it was there; put partition last"
        )
    for instrument in instruments:
        instrument.before(pass_, program)
    start = perf_counter()
    pass_.requires(program)
    result = pass_.run(program, context)
    _check_result(pass_, program, result, context.fuel)
    pass_.ensures(result)
    result = replace(result, report=replace(result.report, seconds=perf_counter() - start))
    if state.programs and result.changed and not result.programs:
        raise PreconditionError(
            f"{pass_.name} rewrote one program of {', '.join(state.programs)}, which an earlier pass made; "
            f"put {pass_.name} before that pass"
        )
    if state.schedule is not None and result.schedule is not None and not result.schedule.extends(state.schedule):
        raise PreconditionError(
            f"{pass_.name} made a schedule of its own, and {state.ran[-1]} before it had made one already; a program "
            "has one schedule: leave one of them out"
        )
    for instrument in instruments:
        instrument.after(pass_, program, result)
    return result


def _check_result(pass_: Pass, program: Program, result: PassResult, fuel: int | None) -> None:
    if not isinstance(result, PassResult):
        raise PostconditionError(f"{pass_.name} returned {type(result).__name__}, wanted a PassResult")
    if not result.changed and result.program is not program:
        raise PostconditionError(f"{pass_.name} reports no change and returned another program, wanted the one given")
    if fuel is not None and result.fuel_used is not None and result.fuel_used > fuel:
        raise PostconditionError(f"{pass_.name} made {result.fuel_used} rewrites, wanted at most {fuel}")
