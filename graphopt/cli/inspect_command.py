"""`graphopt inspect`: what could be pruned, left out or cached, what that would save, and what is frozen and why."""

from typing import Annotated

import typer
from rich.text import Text

import graphopt
from graphopt.cli.options import AsJson, ModelTarget, Traceback
from graphopt.cli.screen import Screen
from graphopt.cli.targets import Target
from graphopt.cli.user_code import build_model
from graphopt.report.inspection import RANKINGS, explain_parameter, inspect_program
from graphopt.report.inspection_tables import inspection_tables


def inspect(
    target: ModelTarget,
    explain: Annotated[
        str | None,
        typer.Option(metavar="NAME[:DIM]", help="Tell what this parameter is coupled to, or why it is frozen."),
    ] = None,
    regroup: Annotated[
        bool, typer.Option("--regroup", help="Offer axes under a GroupNorm that straddles a concatenation too.")
    ] = False,
    regions: Annotated[
        bool, typer.Option("--regions", help="List branches, blocks, stacks and long skips instead.")
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(metavar="INPUT", help="Input that regions are seen from; by default the one like the output."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(metavar="|".join(RANKINGS), help="Rank groups by what one unit saves; milliseconds are measured."),
    ] = "macs",
    top: Annotated[int | None, typer.Option(min=1, help="List only so many groups.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the operators of each group, whole and with half of its units.")
    ] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Show which parameters can be pruned together, what that saves, and what is frozen and why."""
    with Screen(as_json=as_json, with_traceback=traceback, steps=3) as screen:
        screen.step(f"building {target}")
        built = build_model(Target.parse(target))
        screen.step("capturing")
        program = graphopt.capture(built.model, built.args, built.kwargs)
        screen.step("analysing")
        if explain is not None:
            text = explain_parameter(program, explain, regroup=regroup)
            screen.show({"parameter": explain, "explanation": text.splitlines()}, Text(text))
            return
        if regions:
            found = graphopt.find_regions(program, sample=sample)
            screen.show(found.to_dict(), Text(str(found)))
            return
        inspection = inspect_program(program, regroup=regroup, by=by, top=top, measure=measure)
        screen.show(inspection.to_dict(), *inspection_tables(inspection))
