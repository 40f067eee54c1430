"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ModelTarget = Annotated[
    str,
    typer.Argument(
        metavar="FILE.py:NAME",
        help="A function that returns (model, args) or (model, args, kwargs), in a file or in a dotted module.",
    ),
]

ResultFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What `graphopt optimize --out` or Result.save wrote.")
]

ModelOverride = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE.py:NAME",
        help="The function that builds the model, where it is no longer where the result was made.",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON document to standard output, and nothing else.")]

Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")]
