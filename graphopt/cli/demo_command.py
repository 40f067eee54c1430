"""`graphopt demo`: the whole path on a model that trains within a minute."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from graphopt.cli.options import AsJson, Traceback
from graphopt.cli.screen import Screen


class Model(StrEnum):
    """What can be demonstrated."""

    DIT = "dit"
    MINILM = "minilm"


def demo(
    model: Annotated[
        Model, typer.Option(help="A diffusion transformer trained on digits, or a real sentence encoder.")
    ] = Model.DIT,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go, in a folder for each model.")] = Path(
        "out/demo"
    ),
    cache: Annotated[Path, typer.Option(metavar="FOLDER", help="Keeps trained weights between runs.")] = Path(
        ".demo_cache"
    ),
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Train a small model, halve its work, prove it, recover, export, and show what was lost and won."""
    with Screen(as_json=as_json, with_traceback=traceback) as screen:
        # Imported late: the demonstrations need packages that no other command does.
        from graphopt.demo.minilm import run_minilm
        from graphopt.demo.run import run_dit

        report = run_dit(cache, out) if model is Model.DIT else run_minilm(out)
        files = (Text(f"{name}: {path}") for name, path in report.files.items())
        screen.show(report.to_dict(), report.table(), *files)
