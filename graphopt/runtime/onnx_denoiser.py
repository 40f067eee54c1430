"""OnnxCachedDenoiser: plays the schedule of exported ONNX files, in a loop of one's own or in a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.exporters.onnx_call import bound, rebuilt
from graphopt.exporters.onnx_schedule import read_schedule
from graphopt.exporters.onnx_steps import OUT
from graphopt.exporters.runtime import require_onnx
from graphopt.runtime.onnx_programs import open_programs
from graphopt.runtime.session import CacheSession, Decision
from graphopt.runtime.steps import StepFinder, start, timestep_of
from graphopt.schedule import FULL


class OnnxCachedDenoiser:
    """Runs the ONNX files of a result with a schedule, one step a call, called like the model.

    What a step keeps stays where ONNX Runtime has put it, and is bound as an input of the steps that read it. Every
    call is the next step until `reset`. With a scheduler, generation, step and guidance branch are told from its
    timesteps, so that the runner takes the place of the U-Net or transformer of a pipeline.

    Args:
        folder: What `export_onnx` wrote; its files are compared with their sums in ``schedule.json``.
        providers: Execution providers of ONNX Runtime, the CPU's by default.
        threads: Threads that one operator may use; 0 lets ONNX Runtime choose.
        model: Answers for all other attributes, such as ``add_embedding``, and gives the order of the arguments. Its
            weights are not looked at; it may be on the meta device.
        config: Configuration of the model, for pipelines that read it; that of `model` by default.
        scheduler: Of the sampling loop, or a callable that gives it.

    Raises:
        PlanError: The folder holds no schedule, or a file of it is missing or damaged.
        MissingExtraError: ONNX Runtime is not installed.
        ExportError: ONNX Runtime cannot load a file.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        providers: Sequence[Any] | None = None,
        threads: int = 0,
        model: Any = None,
        config: Any = None,
        scheduler: Any = None,
    ) -> None:
        self._model = model
        self._config = config
        require_onnx()
        self._described = read_schedule(Path(folder))
        result = open_programs(Path(folder), self._described, providers, threads)
        self._device = result.device
        self._session = CacheSession(result)
        self._played: list[Decision] = []
        self._finder = None if scheduler is None else StepFinder(_giver(scheduler))
        self._named: tuple[str | None, int | None] = (None, None)
        self._order = _order(model, self._described.arguments, self._described.positional)

    # ------------------------------------------------------------------ the schedule

    @property
    def decisions(self) -> list[Decision]:
        """What every step of this generation did; of the last one where a pipeline has ended it."""
        return self._played

    @property
    def cache_bytes(self) -> int:
        """Bytes held for later steps, of all guidance branches."""
        return self._session.cache_bytes

    @property
    def step(self) -> int:
        """Number of the next step of the current branch; setting it to one that is not the next drops what is held."""
        return self._session.step

    @step.setter
    def step(self, number: int) -> None:
        """Set the number of the next step of the current branch."""
        self._session.step = number

    def reset(self, *, steps: int | None = None, timesteps: Sequence[float] | None = None) -> None:
        """Start a new generation: nothing is held any more.

        Args:
            steps: number of its steps, where known.
            timesteps: timestep of every step, where known.
        """
        if self._finder is not None:
            self._finder.forget()
        self._played.clear()
        self._session.reset(steps=steps, timesteps=timesteps)

    @contextmanager
    def branch(self, name: str) -> Iterator[None]:
        """Run steps of another guidance branch, such as the unconditional one, with a memory of its own."""
        with self.cache_context(name):
            yield

    @contextmanager
    def cache_context(self, name: str, **where: Any) -> Iterator[None]:
        """Name the guidance branch of the calls inside, as pipelines do.

        Args:
            name: of the branch.
            where: may hold `step_index`, the number of the step.
        """
        before, self._named = self._named, (name, where.get("step_index"))
        try:
            with self._session.branch(name):
                yield
        finally:
            self._named = before

    def _reset_stateful_cache(self) -> None:
        """Called by pipelines at their end: what is held goes, what was decided can still be read."""
        played = list(self._played)
        self.reset()
        self._played.extend(played)

    # ------------------------------------------------------------------ steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the next step.

        Args:
            args: the model's positional inputs, tensors or arrays.
            kwargs: its keyword inputs.

        Returns:
            The model's own output, with arrays for tensors where all inputs were arrays.

        Raises:
            GraphoptError: the inputs do not fit the files.
        """
        given = self._given(args, kwargs)
        inputs = dict(bound({"dict": self._described.arguments}, given, ""))
        tensors = [_as_input(inputs[str(one["place"])], one) for one in self._described.tensors]
        outputs = self._session(*tensors) if self._finder is None else self._located(self._finder, given, tensors)
        self._played.append(self._session.decisions[-1])
        if not any(isinstance(value, Tensor) for value in inputs.values()):
            outputs = tuple(output.cpu().numpy() for output in outputs)
        return rebuilt(self._described.returns, dict(zip(self._returned(), outputs, strict=True)))

    forward = __call__

    def _located(self, finder: StepFinder, given: Mapping[str, Any], tensors: Sequence[Tensor]) -> Any:
        """Run the step at which the sampling loop is."""
        branch, index = self._named
        moment = finder.locate(timestep_of(given), branch=branch, index=index)
        if moment.starts:
            self._played.clear()
            start(self._session, finder)
        with self._session.branch(moment.branch):
            self._session.step = moment.step
            return self._session(*tensors)

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._order):
            raise GraphoptError(
                f"found {len(args)} arguments by place, wanted at most {len(self._order)} "
                f"({', '.join(self._order)}): give the others by name, or give model=... to the denoiser"
            )
        return {**dict(zip(self._order, args, strict=False)), **kwargs}

    def _returned(self) -> list[str]:
        entry = self._described.programs[FULL]
        return [name for name in entry.outputs if not name.startswith(OUT)]

    # ------------------------------------------------------------------ the model

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first floating input."""
        dtypes = [_dtype(one) for one in self._described.tensors]
        return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where ONNX Runtime computes."""
        return self._device

    def __getattr__(self, name: str) -> Any:
        """Read everything else from the model, or from its configuration."""
        model, config = vars(self).get("_model"), vars(self).get("_config")
        if name == "config" and config is not None:
            return config
        for source in (model, config):
            if source is not None and hasattr(source, name):
                return getattr(source, name)
        raise AttributeError(f"the denoiser has no {name}; give it a model=... or config=... that has")


def _giver(scheduler: Any) -> Callable[[], Any]:
    return scheduler if callable(scheduler) else lambda: scheduler


def _order(model: Any, arguments: Mapping[str, Any], positional: int) -> list[str]:
    if model is not None:
        return list(inspect.signature(model.forward).parameters)
    return list(arguments)[:positional]


def _dtype(described: Mapping[str, Any]) -> torch.dtype:
    found: torch.dtype = getattr(torch, str(described["dtype"]))
    return found


def _as_input(value: Any, described: Mapping[str, Any]) -> Tensor:
    """A value as a tensor of the dtype and sizes that the files take."""
    wanted = _dtype(described)
    if isinstance(value, np.ndarray | np.generic):
        tensor = torch.from_numpy(np.asarray(value))
    else:
        tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=wanted)
    sizes = list(described["shape"])
    fits = tensor.ndim == len(sizes) and all(
        size in ("batch", found) for size, found in zip(sizes, tensor.shape, strict=True)
    )
    if tensor.dtype != wanted or not fits:
        raise GraphoptError(
            f"the input {described['name']} is {tensor.dtype} {list(tensor.shape)}, and the files take {wanted} "
            f"{sizes}; pass it so, or export the model captured with such an input"
        )
    return tensor
