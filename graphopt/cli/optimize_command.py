"""`graphopt optimize`: run passes over a model and save what comes out."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import graphopt
from graphopt.cli.options import AsJson, ModelTarget, Traceback
from graphopt.cli.origin import record_origin, require_writable
from graphopt.cli.screen import Screen
from graphopt.cli.targets import Target
from graphopt.cli.user_code import build_model, load_batches, load_loss
from graphopt.pass_manager import Pass, PassResult
from graphopt.program import Program
from graphopt.report.tables import report_tables


class ProgressInstrument:
    """Tells the screen which pass runs.

    Args:
        screen: Where progress is shown.
        verify: Whether each pass is verified afterwards.
    """

    def __init__(self, screen: Screen, *, verify: bool) -> None:
        self._screen = screen
        self._verify = verify

    def before(self, pass_: Pass, program: Program) -> None:
        """Show the pass that is going to run."""
        self._screen.step(f"running {pass_.name}")

    def after(self, pass_: Pass, program: Program, result: PassResult) -> None:
        """Show that it is verified."""
        if self._verify:
            self._screen.step(f"verifying {pass_.name}")


def optimize(
    target: ModelTarget,
    passes: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help='Passes to run, such as "prune-channels{ratio=0.5}". The budget may be latency_seconds=0.01 instead; '
            "round_to=auto, uniform_per_layer and compensate=scale are further options.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Save the result there; an earlier result is replaced.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE.py:NAME", help="Batches, or a function that returns them.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="FILE.py:NAME", help="A function of (output, batch) that returns a scalar.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    fuel: Annotated[
        int | None, typer.Option(min=0, help="Stop after so many rewrites, to find one that goes wrong.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the proof that follows each pass.")] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Run passes over a model, prove that they did what they say, and save the result."""
    with Screen(as_json=as_json, with_traceback=traceback) as screen:
        pipeline = graphopt.Pipeline(passes)
        screen.plan_steps(3 + len(pipeline.passes) * (1 if no_verify else 2))
        if out is not None:
            require_writable(out)
        source = Target.parse(target)
        screen.step(f"building {target}")
        built = build_model(source)
        context = graphopt.PassContext(
            calibration=None if calibration is None else load_batches(Target.parse(calibration)),
            loss=None if loss is None else load_loss(Target.parse(loss)),
            seed=seed,
            fuel=fuel,
            verify=not no_verify,
        )
        screen.step("capturing")
        result = graphopt.optimize(
            built.model,
            built.args,
            built.kwargs,
            passes=pipeline.passes,
            context=context,
            instruments=(ProgressInstrument(screen, verify=not no_verify),),
        )
        tail = []
        if out is not None:
            screen.step(f"saving {out}")
            result.save(out)
            record_origin(out, source)
            tail.append(Text(f"saved to {out}"))
        document = {
            "model": result.program.source.class_name,
            "passes": str(pipeline),
            "out": None if out is None else str(out),
            "report": result.report.to_dict(),
            "notes": list(result.program.notes),
        }
        screen.show(document, *report_tables(result.report, result.plan), *tail)
