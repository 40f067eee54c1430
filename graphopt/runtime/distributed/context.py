"""Context parallelism that diffusers brings along: `graphopt.context_parallel`."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
from torch import distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from graphopt.errors import DeviceFailureError, GraphoptError
from graphopt.runtime.distributed.agreeing import agree, digest, on_one_machine
from graphopt.runtime.distributed.board import TIMEOUT_SECONDS, Board, Meeting
from graphopt.runtime.distributed.channels import first_line
from graphopt.runtime.distributed.context_plans import ContextPlans
from graphopt.runtime.distributed.failures import common_error, tell_failure
from graphopt.runtime.pipelines import DENOISERS
from graphopt.version import __version__

DIMENSIONS = ("ring", "ulysses")
"""Dimensions of the mesh of processes, as diffusers calls them."""


def context_parallel(
    pipe_or_model: Any,
    *,
    ring: int = 1,
    ulysses: int = 1,
    timeout: float = TIMEOUT_SECONDS,
    backend: str = "gloo",
    meeting: Meeting | None = None,
) -> ContextParallel:
    """Let every process compute a part of the tokens of a diffusers model that says how; called in all of them.

    Nothing is captured: diffusers splits what enters the model as the model's own plan says (``_cp_plan``), exchanges
    keys and values, or heads, inside attention, and gathers what the model returns. The result is that of one process
    to rounding. Every process holds all weights, runs the whole sampling loop and gets the result; all of them must
    begin with the same noise, so give their generators the same seed.

    Args:
        pipe_or_model: a pipeline with a transformer, or such a model itself.
        ring: number of processes that keys and values are passed around (ring attention). It needs an attention
            backend that tells the log-sum-exp, which there is for CUDA alone.
        ulysses: number of processes that heads are exchanged among (Ulysses). It divides the number of heads.
        timeout: seconds that a process waits for another one at most.
        backend: ``gloo``, or ``nccl`` for tensors on CUDA devices. A default process group that is there is used as it
            is.
        meeting: where the processes meet; what torchrun says by default.

    Returns:
        The run, to be used as a context: ``with graphopt.context_parallel(pipe, ulysses=2): pipe(...)``. Leaving it
        takes out of the model what was put in.

    Raises:
        MissingExtraError: diffusers is not installed.
        RuntimeMismatchError: the processes do not agree.
        DeviceFailureError: one of them does not answer.
        GraphoptError: the model has no plan, or the numbers do not fit it or the processes.

    References:
        Liu, Zaharia, Abbeel: Ring Attention with Blockwise Transformers for Near-Infinite Context, arXiv 2310.01889.
        Jacobs et al., DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme Long Sequence
        Transformer Models, arXiv 2309.14509. Fang, Zhao: USP: A Unified Sequence Parallelism Approach for Long Context
        Generative AI, arXiv 2405.07719.
    """
    plans = ContextPlans()
    return ContextParallel(pipe_or_model, plans, meeting or Meeting.from_environment(timeout, backend), (ring, ulysses))


class ContextParallel:
    """A pipeline, or a model, whose processes each compute a part of the tokens.

    Attributes:
        models: the models whose calls are shared, by the attribute of the pipeline; "" for a model itself.
        meeting: where the processes met.
    """

    def __init__(self, pipe_or_model: Any, plans: ContextPlans, meeting: Meeting, degrees: tuple[int, int]) -> None:
        self.meeting = meeting
        self.models: Mapping[str, nn.Module] = {}
        self._board = Board(meeting)
        self._undo = ExitStack()
        with self._failing():
            self.models = _denoisers(pipe_or_model)
            _require_degrees(degrees, meeting.world_size)
            for model in self.models.values():
                plans.require(model, *degrees)
            agree(self._board, self._facts(plans, degrees))
            mesh = self._mesh(degrees)
            for model in self.models.values():
                self._undo.callback(plans.disable, model)
                plans.enable(model, mesh, degrees)

    def __enter__(self) -> Self:
        """Return the run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; after an error in the block the other processes end with that error too."""
        if isinstance(failure, Exception):
            with self._failing():
                raise failure
        elif failure is None:
            self.close()
        else:
            self._undo.close()

    def close(self) -> None:
        """Wait for the other processes, and take everything out of the models again.

        Raises:
            GraphoptError: a process failed, here or elsewhere.
        """
        with self._failing():
            if dist.is_initialized():
                dist.barrier()
        self._undo.close()

    def _facts(self, plans: ContextPlans, degrees: tuple[int, int]) -> dict[str, Any]:
        """What all processes must have in common, by what messages call it."""
        models = self.models.items()
        return {
            "graphopt": __version__,
            "torch": str(torch.__version__),
            "diffusers": plans.version,
            "the number of processes": self.meeting.world_size,
            "the backend": self.meeting.backend,
            "the degrees (ring, ulysses)": list(degrees),
            "the models": {name: type(model).__name__ for name, model in models},
            "the plans of the models": {name: plans.text(model) for name, model in models},
            "the weights": {name: digest(model) for name, model in models},
        }

    def _mesh(self, degrees: tuple[int, int]) -> DeviceMesh:
        """Processes by ring and place in it; groups that are made here are ended with the run."""
        meeting, limit = self.meeting, timedelta(seconds=self.meeting.timeout_seconds)
        with on_one_machine(meeting):
            if not dist.is_initialized():
                dist.init_process_group(
                    meeting.backend,
                    store=PrefixStore("context", self._board.store),
                    rank=meeting.rank,
                    world_size=meeting.world_size,
                    timeout=limit,
                )
                self._undo.callback(dist.destroy_process_group)
            if dist.get_world_size() != meeting.world_size:
                raise GraphoptError(
                    f"torch.distributed has a group of {dist.get_world_size()} processes already, wanted one of "
                    f"{meeting.world_size}; end it with torch.distributed.destroy_process_group()"
                )
            device = "cuda" if "nccl" in str(dist.get_backend()) else "cpu"
            mesh = init_device_mesh(device, degrees, mesh_dim_names=DIMENSIONS)
        for name in DIMENSIONS:
            dist.distributed_c10d._set_pg_timeout(limit, mesh.get_group(name))
        return mesh

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Tell the others of a failure, agree with them on what began it, and raise that."""
        try:
            yield
        except Exception as error:
            told = _lost(error, self.meeting) or error
            tell_failure(self._board, self.meeting.rank, told)
            common = common_error(self._board, self.meeting.rank, told)
            self._undo.close()
            gc.collect()  # connections close with the last reference, and only then do the others notice
            raise common from error


def _lost(error: Exception, meeting: Meeting) -> DeviceFailureError | None:
    """Say in plain words that another process is gone or does not answer; None where the error is another one."""
    late = "imed out" in str(error)
    if not isinstance(error, RuntimeError) or not (late or "onnection" in str(error)):
        return None
    found = f"did not answer within {meeting.timeout_seconds:g} s" if late else "closed the connection"
    return DeviceFailureError(
        f"another process {found} while rank {meeting.rank} exchanged tensors with it ({first_line(error)}); look at "
        "the output of the others"
    )


def _denoisers(pipe: Any) -> dict[str, nn.Module]:
    if isinstance(pipe, nn.Module):
        return {"": pipe}
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    models = {name: model for name, model in found.items() if isinstance(model, nn.Module)}
    if not models:
        raise GraphoptError(
            f"{type(pipe).__name__} has no model under {', '.join(DENOISERS)}, wanted a pipeline with a denoiser; give "
            "the model itself"
        )
    return models


def _require_degrees(degrees: tuple[int, int], processes: int) -> None:
    ring, ulysses = degrees
    if min(degrees) >= 1 and ring * ulysses == processes > 1:
        return
    raise GraphoptError(
        f"found {json.dumps(dict(zip(DIMENSIONS, degrees, strict=True)))} and {processes} processes, wanted two "
        f"numbers from 1 up whose product is the number of processes, two or more; give ulysses={max(2, processes)}, "
        "or start as many processes as the product"
    )
