"""`graphopt apply`: carry out a saved plan on a checkpoint, shard by shard."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from graphopt.cli.options import AsJson, Traceback
from graphopt.cli.screen import Screen
from graphopt.exporters.applying import UNKNOWN, apply_plan
from graphopt.exporters.checkpoint import open_checkpoint
from graphopt.report.figures import figure, share


def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan.json, or the folder of a saved result.")],
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="model.safetensors.index.json, a .safetensors file, or a folder."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Write there; what graphopt wrote before is replaced.")],
    prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="What the checkpoint's keys have in front of the model's names.")
    ] = "",
    wrapped: Annotated[
        str, typer.Option(metavar="TEXT", help="What the names in the plan have in front of the checkpoint's keys.")
    ] = "",
    unknown: Annotated[
        str, typer.Option(metavar="|".join(UNKNOWN), help="What happens to keys that the plan does not know.")
    ] = "refuse",
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Slice the tensors of a checkpoint as a plan says; it may be larger than memory."""
    with Screen(as_json=as_json, with_traceback=traceback) as screen:
        screen.plan_steps(len(open_checkpoint(checkpoint).files))
        done = apply_plan(
            plan,
            checkpoint,
            out,
            prefix=prefix,
            wrapped=wrapped,
            unknown=unknown,
            watch=lambda file: screen.step(f"writing {file}"),
        )
        before, after = figure("bytes", done.bytes_before), figure("bytes", done.bytes_after)
        lines = [
            f"{len(done.files)} files, {len(done.changed)} tensors sliced, {len(done.left_out)} left out",
            f"{before} before, {after} after ({share(done.bytes_after, done.bytes_before)}), written to {out}",
        ]
        screen.show(done.to_dict(), *map(Text, lines))
