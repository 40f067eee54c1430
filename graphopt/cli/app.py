"""The application: its commands, and how it starts and ends."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol, runtime_checkable

import typer

from graphopt.cli.apply_command import apply
from graphopt.cli.bench_command import bench
from graphopt.cli.demo_command import demo
from graphopt.cli.export_command import export
from graphopt.cli.inspect_command import inspect
from graphopt.cli.optimize_command import optimize
from graphopt.cli.run_command import run
from graphopt.version import __version__

USAGE = 2

USAGE_ERRORS = tuple(
    kind for kind in typer.BadParameter.__mro__ if issubclass(kind, Exception) and kind is not Exception
)
"""Typer's error for a wrong option and the classes it derives from, which differ between its releases."""


@runtime_checkable
class _Explained(Protocol):
    """An error of Typer's that can say more than its text does."""

    def format_message(self) -> str:
        """Return what is wrong with which option."""


def _example(words: str) -> str:
    """Return the last paragraph of a help text; the backspace keeps its lines as they are."""
    return f"\b\nExample:\n  graphopt {words}"


app = typer.Typer(name="graphopt", rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True, epilog=_example("inspect my_model.py:build"))
def graphopt_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Make PyTorch models smaller and faster on their graph, with proof."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


COMMANDS: tuple[tuple[Callable[..., None], str, str], ...] = (
    (inspect, "What can be pruned, what that saves, what is frozen.", "inspect my_model.py:build"),
    (
        optimize,
        "Run passes over a model and save the result.",
        'optimize my_model.py:build --passes "prune-channels{ratio=0.5}" --out out/',
    ),
    (
        apply,
        "Carry out a plan on a checkpoint, shard by shard.",
        "apply out/plan.json model.safetensors.index.json --out small/",
    ),
    (export, "Write a saved result as an ONNX file.", "export out/ --onnx --opset 20"),
    (bench, "Measure a saved result against its original.", "bench out/ --repeats 50 --threads 1"),
    (run, "Run a partitioned result in several processes.", "run out/ --nproc 2 --check"),
    (demo, "See it all on a model that trains within a minute.", "demo --model minilm"),
)
"""Each command with its line in the list of commands and an example."""


for _command, _line, _words in COMMANDS:
    app.command(short_help=_line, epilog=_example(_words))(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; those of the process by default.

    Returns:
        The exit code: 0, 1 where a command failed, 2 where the command line is wrong, 130 after an interrupt.
    """
    command = typer.main.get_command(app)
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = command.main(args=words, prog_name="graphopt", standalone_mode=False)
    except USAGE_ERRORS as error:
        text = error.format_message() if isinstance(error, _Explained) else str(error)
        place = " ".join(("graphopt", *words[:1])) if words and not words[0].startswith("-") else "graphopt"
        sys.stderr.write(f"error: {' '.join(text.split()).rstrip('.')}; see {place} --help\n")
        return USAGE
    return code if isinstance(code, int) else 0
