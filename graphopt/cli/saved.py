"""Loading a saved result together with the model that it was made from."""

from pathlib import Path

import graphopt
from graphopt.cli.origin import read_origin
from graphopt.cli.screen import Screen
from graphopt.cli.targets import Target
from graphopt.cli.user_code import build_model
from graphopt.errors import PlanError
from graphopt.exporters.atomic import MARKER
from graphopt.pass_manager import Result

STEPS = 2
"""How many steps of the screen `load_saved` takes."""


def load_saved(folder: Path, model: str | None, screen: Screen) -> Result:
    """Build the model of a saved result anew and load the result.

    Args:
        folder: What `Result.save` wrote.
        model: Text of the target that builds the model; where it was recorded by default.
        screen: Where progress is shown.

    Raises:
        PlanError: The folder is no saved result, is damaged, does not tell its model, or belongs to another one.
        SpecError: The target does not lead to a function.
        CaptureError: The model cannot be built or captured.
    """
    if not (folder / MARKER).is_file():
        raise PlanError(f"{folder} is no saved result: it has no {MARKER}; make one with graphopt optimize --out")
    target = read_origin(folder) if model is None else Target.parse(model)
    screen.step(f"building {target}")
    built = build_model(target)
    screen.step(f"loading {folder}")
    return graphopt.load(folder, model=built.model)
