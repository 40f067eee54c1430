"""Partitioned denoisers in pipelines: `graphopt.distribute` and `graphopt.serve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from graphopt.errors import GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.pass_manager import Result
from graphopt.plan import PlanSource
from graphopt.runtime.distributed.board import TIMEOUT_SECONDS, Meeting
from graphopt.runtime.distributed.crew import Crew
from graphopt.runtime.distributed.denoiser import DistributedDenoiser, DistributedSession, weightless
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.machine import DeviceProgram
from graphopt.runtime.distributed.saved import calling_of, load_program, program_of, read_plan
from graphopt.runtime.distributed.worker import example_inputs
from graphopt.runtime.pipelines import DENOISERS


class Distributed:
    """A pipeline, or a model, whose denoiser runs on several devices.

    Used as a context, each process leaves it together with the others: where `drives` is false it serves meanwhile.

    Attributes:
        drives: whether the sampling loop runs in this process.
        model: what is called in place of the denoiser, where `drives` is true; None elsewhere.
        crew: this process of the run.
    """

    def __init__(self, crew: Crew, driver: Driver | None = None, model: nn.Module | None = None) -> None:
        self.crew = crew
        self.model = model
        self.drives = driver is not None
        self._driver = driver

    def __enter__(self) -> Self:
        """Return the run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; after an error in the block the other processes end with that error too."""
        if isinstance(failure, Exception):
            self.crew.abandon(failure)
        elif failure is None:
            self.close()

    def close(self) -> None:
        """End the run on all devices; where this process does not drive, serve until the one that does has ended it.

        Raises:
            GraphoptError: a process failed, here or elsewhere.
        """
        if self._driver is not None:
            self._driver.close()
        else:
            self.crew.serve()


def distribute(
    pipe_or_model: Any,
    source: Result | str | Path,
    *,
    scheduler: Any = None,
    timeout: float = TIMEOUT_SECONDS,
    backend: str = "gloo",
    meeting: Meeting | None = None,
) -> Distributed:
    """Let the denoiser of a pipeline run on several devices; called in every process that torchrun starts.

    In the process of the sampler's device a stand-in takes the denoiser's place: each call is a step on all devices. In
    the others the denoiser has no weights any more. Either way the weights of other devices are let go, unless somebody
    else holds the model: each process loads those of its own segments.

    Args:
        pipe_or_model: a pipeline with a U-Net or transformer, or such a model itself.
        source: a partitioned result, or the folder where one was saved.
        scheduler: of a loop of one's own; it tells steps and generations. A pipeline's own by default.
        timeout: seconds that a process waits for another one at most.
        backend: ``gloo``, or ``nccl`` for tensors on CUDA devices.
        meeting: where the processes meet; what torchrun says by default.

    Returns:
        The run, to be used as a context: ``with distribute(pipe, "out/") as run:`` and in it ``if run.drives:``.

    Raises:
        GraphoptError: there is not one denoiser, it is another one than was partitioned, or the processes do not agree.
    """
    name, model = _denoiser(pipe_or_model)
    meeting = meeting or Meeting.from_environment(timeout, backend)
    examples: dict[str, Any] = {}

    def load() -> DeviceProgram:
        _require_source(source, model)
        program, found = _loaded(source, meeting.rank)
        examples.update(found)
        return program

    crew = Crew(meeting, load)
    try:
        run = _taken_over(crew, model, examples, lambda: _scheduler(pipe_or_model) if scheduler is None else scheduler)
    except Exception as error:
        crew.abandon(error)
        raise
    if name:
        object.__setattr__(pipe_or_model, name, run.model if run.drives else weightless(model))
    return run


def _taken_over(crew: Crew, model: nn.Module, examples: Mapping[str, Any], scheduler: Callable[[], Any]) -> Distributed:
    if not crew.drives:
        return Distributed(crew)
    driver = Driver(crew, examples={key: value for key, value in examples.items() if isinstance(value, Tensor)})
    session = DistributedSession(driver, calling_of(crew.program.partition))
    return Distributed(crew, driver, DistributedDenoiser(model, session, scheduler))


def _scheduler(pipe_or_model: Any) -> Any:
    return None if isinstance(pipe_or_model, nn.Module) else getattr(pipe_or_model, "scheduler", None)


def serve(
    source: Result | str | Path,
    *,
    timeout: float = TIMEOUT_SECONDS,
    backend: str = "gloo",
    meeting: Meeting | None = None,
) -> None:
    """Compute the part of one device until the process that drives ends the run; needs neither pipeline nor model.

    Args:
        source: a partitioned result, or the folder where one was saved.
        timeout: seconds that a process waits for another one at most.
        backend: ``gloo``, or ``nccl`` for tensors on CUDA devices.
        meeting: where the processes meet; what torchrun says by default.

    Raises:
        GraphoptError: this is the process that drives, or a process failed.
    """
    meeting = meeting or Meeting.from_environment(timeout, backend)
    crew = Crew(meeting, lambda: _served(source, meeting.rank))
    crew.serve()


def _served(source: Result | str | Path, rank: int) -> DeviceProgram:
    program, _ = _loaded(source, rank)
    if program.partition.sampler == rank:
        raise GraphoptError(f"rank {rank} drives and cannot serve; call distribute(pipe, ...) in it")
    return program


def _loaded(source: Result | str | Path, rank: int) -> tuple[DeviceProgram, dict[str, Any]]:
    """What a device runs; on the sampler's device with the example inputs by name."""
    if isinstance(source, Result):
        program = program_of(source, rank)
        leaves = ExampleInputs(source.program.args, source.program.kwargs).leaves()
        return program, dict(zip(calling_of(program.partition).inputs, leaves, strict=True))
    program = load_program(source, rank)
    if rank != program.partition.sampler:
        return program, {}
    return program, example_inputs(source, calling_of(program.partition).inputs)


def _denoiser(pipe: Any) -> tuple[str, nn.Module]:
    """Attribute and model of a pipeline's denoiser; no attribute for a model itself.

    Raises:
        GraphoptError: there is none, or more than one.
    """
    if isinstance(pipe, nn.Module):
        return "", _clean(pipe)
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    models = {name: model for name, model in found.items() if isinstance(model, nn.Module)}
    if len(models) != 1:
        raise GraphoptError(
            f"{type(pipe).__name__} has {' and '.join(models) or 'no model'} under {', '.join(DENOISERS)}, wanted one "
            "denoiser; give the model itself and call the stand-in that comes back"
        )
    name, model = next(iter(models.items()))
    return name, _clean(model)


def _clean(model: nn.Module) -> nn.Module:
    if isinstance(model, DistributedDenoiser) or any(one.is_meta for one in model.parameters()):
        raise GraphoptError(
            f"this {type(model).__name__} is distributed already, its weights are gone; load the pipeline again"
        )
    return model


def _require_source(source: Result | str | Path, model: nn.Module) -> None:
    """Refuse a partition of another model, told from class, names and shapes."""
    if isinstance(source, Result):
        plan_source = PlanSource.of(source.program) if source.plan is None else source.plan.source
    else:
        plan_source = read_plan(source).source
    named = (*model.named_parameters(), *model.named_buffers())
    sizes = {name: tuple(tensor.shape) for name, tensor in named}
    differs = [name for name, size in sizes.items() if plan_source.tensors.get(name, size) != size]
    if plan_source.class_name == type(model).__name__ and not differs:
        return
    found, wanted = f"a {type(model).__name__}", f"a {plan_source.class_name}"
    if differs:
        name = differs[0]
        found, wanted = f"{found} with {name} {[*sizes[name]]}", f"{wanted} with {[*plan_source.tensors[name]]}"
    raise GraphoptError(
        f"the partition was made for another model: found {found}, wanted {wanted}; run partition on this one"
    )
