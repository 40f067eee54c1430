"""partition: spread a program over devices, exactly or with values of other devices that are a step old."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch

from graphopt.calling import Calling
from graphopt.errors import PlanError, PreconditionError, SpecError
from graphopt.pass_manager import Pass, PassContext, PassReport, PassResult
from graphopt.passes.partition.finishing import finish
from graphopt.passes.partition.planning import PLANNERS, Settings
from graphopt.passes.partition.reporting import figures_after, figures_before, lines
from graphopt.passes.partition.resources import MEASURED, gather
from graphopt.passes.partition.weighing import weighed
from graphopt.program import Program
from graphopt.proof.partitioning import check_partition
from graphopt.rewrite.ancestry import plan_of
from graphopt.rewrite.stepping import step_programs
from graphopt.stages import Mode


@dataclass(frozen=True, kw_only=True)
class PartitionProgram(Pass):
    """Spread a program over devices.

    The program stays as it is; the plan says which device computes which of its nodes, what it hands to which other,
    and what that is expected to cost. `graphopt run` and `graphopt.distribute` carry it out.

    Attributes:
        devices: number of devices.
        mode: ``pipeline``: stages one after the other, micro-batches in turn; ``cfg``: the two halves of a batch under
            guidance on devices of their own, each a pipeline where there are more than two; ``patch``: a part of the
            tokens, rows or frames on each device; ``async``: all devices at once, each with what the others gave a step
            earlier.
        memory: what a device may hold, such as ``8GB``: one for all, or one a device.
        links: JSON file of the links between the devices, as `graphopt run --links` writes it.
        costs: ``measured`` on this machine, ``roofline:FILE`` from the peak numbers of a device, or a file of saved
            costs.
        speeds: how fast each device is, in times of the one that the costs are of.
        sample: name of the input that changes from step to step; the one most like the output by default.
        micro_batches: number of parts of the batch in a pipeline.
        solver_seconds: time that CP-SAT may take to prove or better a pipeline of a program whose parts could come in
            another order; it needs the extra ``solver``.
        axis: axis that is split with ``patch``; the one that splits most of the work by default.
        patches: number of parts with ``patch``: one a device by default; more are passed through stages (PipeFusion).
        displaced: whether parts read what other parts gave a step earlier (DistriFusion).
        local: indices of each neighbour that attention along the axis sees beside a part's own, instead of all
            (Video-Infinity); it changes what the model computes.
        total: indices strided evenly over the whole axis that attention sees too, with ``local``.
        warm_up: number of first steps that are exact, where values are late; 1 by default, what is best with ``error``.
        stride: 2 lets every second step return what the step before computed for it, with one more device.
        extrapolate: b of ``h + b * (h - h')`` that late values are continued with; 0 by default, what is best with
            ``error``.
        time_shift: whether late steps are given the timestep of the step before.
        error: largest relative error of a late step's output on the calibration steps; the fastest plan within it is
            taken. Without it the fastest plan is.

    References:
        Chen et al., AsyncDiff, NeurIPS 2024, arXiv 2406.06911; Li et al., DistriFusion, CVPR 2024, arXiv 2402.19481;
        Fang et al., PipeFusion, arXiv 2405.14430; Tan et al., Video-Infinity, arXiv 2406.16260; Narayanan et al.,
        PipeDream, SOSP 2019, for the dynamic program over stages.
    """

    name: ClassVar[str] = "partition"
    references: ClassVar[tuple[str, ...]] = (
        "arXiv:2406.06911",
        "arXiv:2402.19481",
        "arXiv:2405.14430",
        "arXiv:2406.16260",
    )

    devices: int
    mode: Mode = "pipeline"
    memory: str | tuple[str, ...] | None = None
    links: str | None = None
    costs: str = MEASURED
    speeds: tuple[float, ...] | None = None
    sample: str | None = None
    micro_batches: int = 1
    solver_seconds: float = 0.0
    axis: str | None = None
    patches: int | None = None
    displaced: bool = False
    local: int | None = None
    total: int | None = None
    warm_up: int | None = None
    stride: int = 1
    extrapolate: float | None = None
    time_shift: bool = False
    error: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("devices", holds=self.devices >= 1, wanted="a number from 1 up")
        self.check_option("micro_batches", holds=self.micro_batches >= 1, wanted="a number from 1 up")
        self.check_option("stride", holds=self.stride in (1, 2), wanted="1 or 2")
        self.check_option("warm_up", holds=self.warm_up is None or self.warm_up >= 1, wanted="a number from 1 up")
        share = self.extrapolate
        self.check_option("extrapolate", holds=share is None or 0 <= share <= 1, wanted="a number from 0 to 1")
        self.check_option("error", holds=self.error is None or self.error > 0, wanted="a number above 0")
        for name in ("local", "total"):
            self.check_option(name, holds=(getattr(self, name) or 0) >= 0, wanted="a number from 0 up")
        self.check_option("patches", holds=self.patches is None or self.patches >= 1, wanted="a number from 1 up")
        if self.stride > 1:
            self.check_option(
                "devices", holds=self.devices >= 3, wanted="3 or more with stride=2, which takes one more"
            )
            self.check_option("error", holds=self.error is None, wanted="none with stride=2")
            self.check_option("time_shift", holds=not self.time_shift, wanted="none with stride=2")
        if self.mode == "cfg":
            self.check_option("devices", holds=self.devices % 2 == 0, wanted="an even number with mode=cfg")
        self._refuse_idle_options()

    def _refuse_idle_options(self) -> None:
        """Refuse options that the mode does not look at."""
        late = self.mode == "async" or self.displaced or self.patches is not None
        idle = {
            "micro_batches": self.mode != "pipeline" and self.micro_batches != 1,
            "solver_seconds": self.mode not in ("pipeline", "cfg") and self.solver_seconds > 0,
            "axis": self.mode != "patch" and self.axis is not None,
            "patches": self.mode != "patch" and self.patches is not None,
            "displaced": self.mode != "patch" and self.displaced,
            "local": self.mode != "patch" and self.local is not None,
            "total": self.local is None and self.total is not None,
            "warm_up": not late and self.warm_up is not None,
            "stride": self.mode != "async" and self.stride != 1,
            "extrapolate": not late and self.extrapolate is not None,
            "time_shift": self.mode != "async" and self.time_shift,
            "error": self.mode != "async" and self.error is not None,
        }
        for name in (name for name, found in idle.items() if found):
            raise SpecError(
                f"{self.name}: the option {name} says nothing with mode={self.mode}; leave it out", option=name
            )

    def requires(self, program: Program) -> None:
        """Refuse programs that draw random numbers: each device would draw its own.

        Raises:
            PreconditionError: the program draws some.
        """
        for node in program.nodes():
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and _draws(node.target):
                raise PreconditionError(
                    f"{node.name} draws random numbers ({node.target}), which would differ from device to device; pass "
                    "them to the model as an input"
                )

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Plan the partition; see the class for the options."""
        resources = gather(program, self.devices, self.costs, self.memory, self.links, self.speeds)
        settings = Settings(**{field.name: getattr(self, field.name) for field in fields(Settings)})
        schedule = context.schedule
        programs = {"main": program} if schedule is None else step_programs(program, schedule, allow_dead=("*",))
        if schedule is not None:
            resources = replace(resources, costs=weighed(resources.costs, programs, schedule))
        calling = Calling.of(program.graph_module, program.args, program.kwargs)
        try:
            draft, notes = PLANNERS[self.mode](program, settings, resources, context)
            finished = finish(programs, draft, resources, calling, schedule)
        except PlanError as error:
            raise PreconditionError(f"{self.name}: {error}") from error
        partition = finished.partition
        checks = check_partition(programs, partition, finished.stages, finished.cutting) if context.verify else ()
        report = PassReport(
            name=self.name,
            spec=str(self),
            before=figures_before(program, resources),
            after=figures_after(partition),
            notes=(*notes, *lines(partition), *(f"{one.law}: error {one.error:.1e} ({one.detail})" for one in checks)),
        )
        plan = replace(plan_of(program, str(self), context.schedule), partition=partition)
        return PassResult(program=program, plan=plan, changed=False, report=report)


def _draws(target: object) -> bool:
    """Tell whether an operator draws random numbers in inference: dropout inside attention does not."""
    return "scaled_dot_product" not in str(target) and "dropout" not in str(target)
