"""What a pipeline returns."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from graphopt.errors import ModuleRestoreError
from graphopt.pass_manager.base import PassReport
from graphopt.plan import Plan, PlanSource
from graphopt.program import Program
from graphopt.restoring.asking import let_ask
from graphopt.restoring.pretrained import Saved, save_pretrained
from graphopt.restoring.restore import restore
from graphopt.rewrite.optimizer_state import Kind, slice_optimizer
from graphopt.rewrite.placing.stage_programs import stage_programs
from graphopt.schedule import Schedule
from graphopt.stages import Partition


@dataclass(frozen=True)
class Report:
    """What a pipeline did.

    Attributes:
        passes: One report a pass, in the order they ran.
    """

    passes: tuple[PassReport, ...]

    @property
    def seconds(self) -> float:
        """How long all passes took together."""
        return sum(report.seconds for report in self.passes)

    def __str__(self) -> str:
        """Return a line for each pass: what it left of parameters and multiply-accumulates."""
        return "\n".join(str(report) for report in self.passes)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON knows."""
        return {"seconds": self.seconds, "passes": [report.to_dict() for report in self.passes]}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a pipeline returns.

    Attributes:
        program: The program after the last pass.
        programs: Programs by id, where a pass made several; `{"main": program}` otherwise.
        plan: Every decision of all passes in indices of the captured model; None where nothing was decided.
        schedule: Which program runs at which step, where a pass made a schedule.
        report: What was done.
    """

    program: Program
    programs: Mapping[str, Program]
    plan: Plan | None
    schedule: Schedule | None = None
    report: Report
    writer: ClassVar[Callable[["Result", Path], None]]
    """Writes a result into a folder; set by the exporters, which stand on the floor above."""

    def __str__(self) -> str:
        """Return the program's class and size, and what each pass did."""
        return f"{self.program!r}\n{self.report}"

    def module(self, model: nn.Module | None = None, *, check_inputs: bool = True) -> nn.Module:
        """Return an ordinary module that computes what the program computes; it shares no tensor with the user's model.

        Given the model, it is a new instance of the user's class with smaller layers and repaired attributes, and has
        tensors of its own; what the program asks about its inputs' data it asks too. Without it, it is the graph over
        the program's own tensors: training it trains the result, all of its programs, and what a `CacheSession` runs
        and what `save` and `export_onnx` then write has the trained weights.

        Args:
            model: The model that was captured; it is left as it is.
            check_inputs: Refuse inputs of other sizes than the captured ones, the symbolic batch aside; a module of
                the user's class checks what it always checked.

        Raises:
            ModuleRestoreError: The user's class cannot say what the program does.
        """
        if model is not None:
            program = _only(self.programs)
            return let_ask(restore(program, model).module, program)
        held = self.program.parameters
        module = self.program.module(check_inputs=check_inputs)
        for program in self.programs.values():
            program.follow(held, self.program)
        return module

    def optimizer(self, optimizer: Kind, model: nn.Module, module: nn.Module) -> Kind:
        """Return the optimizer with which the training of a model goes on after the passes.

        It is of the same class and settings, over the parameters of the module, with its state (momentum, second
        moments, steps) sliced along. Of a parameter whose state cannot be sliced a warning tells that it starts anew.
        Schedulers and hooks belong to the old optimizer; make them anew.

        Args:
            optimizer: Over the model's parameters, perhaps after some steps; it is left as it is.
            model: The model that the passes were given.
            module: What `module` returned.

        Raises:
            PlanError: The optimizer holds parameters that are not the model's, or model, module and result do not
                belong together.
        """
        made, notes = slice_optimizer(self.plan or Plan(PlanSource.of(self.program)), optimizer, model, module)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return made

    @property
    def partition(self) -> Partition | None:
        """Which device computes what; None where one computes all."""
        return None if self.plan is None else self.plan.partition

    @property
    def stages(self) -> dict[str, Program]:
        """What each device computes, by ``phase/segment``; nothing where one device computes all.

        They are made anew at each call and share the parameters of the result's programs.
        """
        return {} if self.partition is None else stage_programs(self.programs, self.partition, self.schedule)

    def save_pretrained(self, path: str | Path, model: nn.Module) -> Saved:
        """Write the result as the user's class saves itself, where one configuration describes it.

        Then the class's own `from_pretrained` loads it, which was tried and compared with the program before this
        returns. Otherwise it is written as `save` writes it.

        Args:
            path: The folder.
            model: The model that was captured, of a class with `config`, `save_pretrained` and `from_pretrained`.

        Returns:
            What was written, and why it is not the class's own form where it is not.
        """
        folder = Path(path)
        try:
            save_pretrained(restore(_only(self.programs), model), folder)
        except ModuleRestoreError as error:
            return Saved(self.save(folder), "graphopt", str(error))
        return Saved(folder, "pretrained")

    def save(self, path: str | Path) -> Path:
        """Write the result into a folder.

        Args:
            path: The folder; it is made, or replaced as a whole.

        Raises:
            GraphoptError: The result cannot be written; what was at the path is left as it was.
        """
        folder = Path(path)
        type(self).writer(self, folder)
        return folder


def _only(programs: Mapping[str, Program]) -> Program:
    """The one program that a result has.

    Raises:
        ModuleRestoreError: It has several, which the user's class cannot switch between.
    """
    if len(programs) == 1:
        return next(iter(programs.values()))
    raise ModuleRestoreError(
        f"the result plays {len(programs)} programs by a schedule ({', '.join(programs)}), and one class is one "
        "program; run them with a CacheSession"
    )
