"""AsyncDiff by hand: whole models, one a rank, in which the modules of other ranks return what they gave a step before.

It shares nothing with graphopt, so that it can tell whether the placed graphs compute the same.

References:
    Chen et al., AsyncDiff: Parallelizing Diffusion Models by Asynchronous Denoising, NeurIPS 2024, arXiv 2406.06911.
    Departures: with stride 2 the first step after the warm-up always computes; there it is the parity of the step that
    decides, so that after an even warm-up the first prediction is that of the last step of it. Past the last timestep
    stands the last one; nobody reads what is computed with it.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Calls a model on a sample and a timestep."""


class Replaced:
    """The forward of a module that runs where it is told to, and returns what it gave last otherwise."""

    def __init__(self, module: nn.Module) -> None:
        self._compute = module.forward
        self.runs = True
        self.output: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.runs:
            self.output = self._compute(*args, **kwargs)
        return self.output


class Rank:
    """One process: the whole model, of which it computes one component and all that no component lists."""

    def __init__(self, model: nn.Module, components: Sequence[Sequence[str]], own: int) -> None:
        self.model = copy.deepcopy(model)
        self.replaced = [{name: _replace(self.model, name) for name in names} for names in components]
        self._own = own

    def run(self, call: Call, x: Tensor, time: Tensor, *, everything: bool) -> Tensor:
        """Call the model; of the components all are computed, or the own one alone."""
        for number, modules in enumerate(self.replaced):
            for module in modules.values():
                module.runs = everything or number == self._own
        return call(self.model, x, time)


class AsyncDiffByHand:
    """A generation over several ranks, played in one process.

    Args:
        model: The denoiser; it is copied.
        components: Names of the modules of each component. The prediction comes from the last one.
        call: Calls a model.
        times: Timestep of every step.
        warm_up: First steps, in which every rank computes everything.
        stride: 1, or 2 with a rank more, which computes the last component too.
        time_shift: Whether the steps after the warm-up are given the timestep of the step before; for stride 1.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Sequence[Sequence[str]],
        call: Call,
        times: Sequence[Tensor],
        *,
        warm_up: int,
        stride: int = 1,
        time_shift: bool = False,
    ) -> None:
        own = [*range(len(components)), *([len(components) - 1] if stride == 2 else [])]
        self.ranks = [Rank(model, components, number) for number in own]
        self._components = len(components)
        self._call, self._times = call, times
        self._warm_up, self._stride, self._time_shift = warm_up, stride, time_shift
        self._ahead: Tensor | None = None

    @torch.no_grad()
    def predict(self, step: int, x: Tensor) -> Tensor:
        """Return the prediction of a step, from 0, on the sample as it is then."""
        if step < self._warm_up:
            return [self._run(rank, x, step, everything=True) for rank in self.ranks][-1]
        if self._stride == 2:
            return self._every_other(step, x)
        seen = step - 1 if self._time_shift else step
        return self._together(x, [seen] * self._components)[-1]

    def _every_other(self, step: int, x: Tensor) -> Tensor:
        """A step that computes two predictions, or one that gives the second of them."""
        if (step - self._warm_up) % 2:
            assert self._ahead is not None
            return self._ahead
        *_, self._ahead, prediction = self._together(x, [step + 1] * self._components + [step])
        return prediction

    def _together(self, x: Tensor, seen: Sequence[int]) -> list[Tensor]:
        """Run every rank on what the others gave before, then tell everyone what was computed."""
        found = [self._run(rank, x, step, everything=False) for rank, step in zip(self.ranks, seen, strict=True)]
        for number in range(self._components):
            for name, module in self.ranks[number].replaced[number].items():
                for rank in self.ranks:
                    rank.replaced[number][name].output = module.output
        return found

    def _run(self, rank: Rank, x: Tensor, step: int, *, everything: bool) -> Tensor:
        return rank.run(self._call, x, self._times[min(step, len(self._times) - 1)], everything=everything)


def _replace(model: nn.Module, name: str) -> Replaced:
    module = model.get_submodule(name)
    replaced = Replaced(module)
    module.forward = replaced
    return replaced
