"""The steps of a pipeline's denoiser on several devices, in the form in which a stand-in plays them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphopt.calling import Calling
from graphopt.errors import GraphoptError
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.session import CacheSession, Decision
from graphopt.runtime.stand_in import OWN, CachedDenoiser
from graphopt.runtime.steps import StepFinder


class DistributedSession:
    """Plays the steps of one run, told apart by generation, step and guidance branch.

    Args:
        driver: plays steps on all devices.
        calling: how the program is called.
    """

    def __init__(self, driver: Driver, calling: Calling) -> None:
        self.decisions: list[Decision] = []
        self._driver = driver
        self._calling = calling
        self._steps: int | None = None
        self._timesteps: Sequence[float] | None = None
        self._seen: dict[str, int] = {}

    @property
    def looks_ahead(self) -> bool:
        """Whether steps are computed at the timestep of the next one, whose value is then read from the device."""
        return self._driver.crew.program.partition.stride > 1

    def reset(self, steps: int | None = None, timesteps: Sequence[float] | None = None) -> None:
        """Start a generation.

        Args:
            steps: number of its steps, where known.
            timesteps: timestep of every step, where known and asked for.
        """
        self._steps, self._timesteps = steps, timesteps
        self._seen.clear()

    def run(self, step: int, branch: str, named: bool, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a step.

        Args:
            step: its number in the generation, from 0.
            branch: name of the guidance branch.
            named: whether the loop itself names its branches.
            args: positional inputs of the model.
            kwargs: its keyword inputs.

        Returns:
            The model's own output.

        Raises:
            GraphoptError: the model is called more than once a step without being told why, or does not get the inputs
                that it was captured with; or a process failed.
        """
        last = self._seen.get(branch)
        if step == last or (last is None and not named and self._seen and step > 0):
            raise GraphoptError(
                f"found another call of the model at step {step} of this image, where the steps before had one; wanted "
                "one call a step, or as many at each step as there are guidance branches: name the branch with "
                "cache_context(name), or take a sampler that calls the model once a step"
            )
        if last is None or step != last + 1:
            later = None if self._timesteps is None else self._timesteps[step:]
            self._driver.begin(branch, None if self._steps is None else self._steps - step, timesteps=later)
        outputs = self._driver.step(self._calling.named(args, kwargs), branch)
        self._seen[branch] = step
        self.decisions.append(Decision(step, branch, self._driver.phase(branch), "by the partition"))
        return self._calling.returned(outputs)


class DistributedDenoiser(CachedDenoiser):
    """Called in place of a denoiser, it runs a step on all devices; everything else is the denoiser's own.

    It holds a copy of the model without weights: those of other devices can be let go, and those of this one are in
    its segments.

    Args:
        model: the denoiser.
        session: plays its steps.
        scheduler: gives the scheduler of the loop, or None.
    """

    def __init__(self, model: nn.Module, session: DistributedSession, scheduler: Callable[[], Any]) -> None:
        nn.Module.__init__(self)  # not the base's own: there are no passes to prepare
        own = vars(self)
        for name in OWN:
            del own[name]
        own["__module__"] = type(model).__module__
        own["uncached"] = weightless(model)
        own["_finder"] = StepFinder(scheduler)
        own["_named"] = None
        own["_signature"] = inspect.signature(model.forward)
        own["_session"] = session
        own["_home"] = _home(model)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What each step of the last generation did."""
        return tuple(self._session.decisions)

    @property
    def sessions(self) -> tuple[CacheSession, ...]:
        """None: there is no cache."""
        return ()

    @property
    def device(self) -> torch.device:
        """Where the inputs are wanted."""
        device: torch.device = self._home[0]
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        dtype: torch.dtype = self._home[1]
        return dtype

    def to(self, *args: Any, **kwargs: Any) -> DistributedDenoiser:
        """Stay where it is: the segments were loaded for one device and one type."""
        return self

    def reset(self) -> None:
        """Take the next call for the first of a generation."""
        self._finder.forget()
        self._session.reset()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the next step.

        Raises:
            GraphoptError: the call is not one that the partition was made for, or a process failed.
        """
        branch, index = self._named or (None, None)
        finder: StepFinder = self._finder
        moment = finder.locate(self._timestep(args, kwargs), branch=branch, index=index)
        if moment.starts:
            self._session.decisions.clear()
            timesteps = finder.timesteps()
            values = timesteps.tolist() if timesteps is not None and self._session.looks_ahead else None
            self._session.reset(None if timesteps is None else len(timesteps), values)
        args, kwargs = self._with_tensor_timestep(args, kwargs)
        return self._session.run(moment.step, moment.branch, branch is not None, args, kwargs)


def weightless(model: nn.Module) -> nn.Module:
    """Copy a model without its weights, which become tensors without values; the model itself is not changed."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()
