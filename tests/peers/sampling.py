"""One sampling loop for peers and graphopt alike, and a record of what each call computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import torch
from peers.subjects import Subject, normal
from torch import Tensor, nn

Guidance = Literal["none", "batched", "sequential"]
"""How classifier-free guidance calls the model: not at all, both branches in one batch, or one after the other."""
Branch = Callable[[str], AbstractContextManager[Any]]
STEPS = 20
SCALE = 3.0


@dataclass(frozen=True)
class Run:
    """What a generation gave.

    Attributes:
        outputs: the model's output at each call; under sequential guidance two calls a step, uncond before cond.
        latents: the final latents.
        computed: at each call, which of the watched modules ran.
    """

    outputs: tuple[Tensor, ...]
    latents: Tensor
    computed: tuple[frozenset[str], ...] = ()


class Watch:
    """Which modules run in a call: forward hooks on modules that a peer skips but never wraps itself."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.seen: set[str] = set()
        self._handles = [model.get_submodule(name).register_forward_hook(self._hook(name)) for name in names]

    def take(self) -> frozenset[str]:
        """Return the names seen since the last time."""
        seen = frozenset(self.seen)
        self.seen.clear()
        return seen

    def close(self) -> None:
        """Take the hooks out."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        return lambda *_: self.seen.add(name)


def scheduler_of(subject: Subject, steps: int = STEPS) -> Any:
    """The scheduler that the loop uses, its timesteps set."""
    if subject.flow:
        scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    scheduler.set_timesteps(steps)
    return scheduler


def _calls(guidance: Guidance, batch: int) -> list[tuple[str, slice]]:
    if guidance == "sequential":
        return [("uncond", slice(0, batch)), ("cond", slice(batch, 2 * batch))]
    return [("inference", slice(None))]


def _rows(conditions: dict[str, Any], rows: slice, whole: int) -> dict[str, Any]:
    kept = {}
    for name, value in conditions.items():
        per_sample = isinstance(value, Tensor) and value.shape[0] == whole and "ids" not in name
        kept[name] = value[rows] if per_sample else value
    return kept


@torch.no_grad()
def sample(
    model: Callable[..., Any],
    subject: Subject,
    guidance: Guidance = "none",
    *,
    scheduler: Any = None,
    branch: Branch = lambda name: nullcontext(),
    watch: Watch | None = None,
    steps: int = STEPS,
    batch: int = 1,
) -> Run:
    """Denoise from fixed noise.

    Args:
        model: called as the subject's own class is, its output's first entry is read.
        subject: shapes and conditions.
        guidance: how the model is called.
        scheduler: the scheduler, its timesteps set; None for a new one.
        branch: entered around each call with the name of the guidance branch.
        watch: records what the calls computed.
        steps: number of steps, where the scheduler is not given.
        batch: number of samples.
    """
    scheduler = scheduler or scheduler_of(subject, steps)
    whole = batch if guidance == "none" else 2 * batch
    conditions = subject.conditions(whole)
    latents = normal(batch, *subject.latents, seed=7)
    outputs, computed = [], []
    for t in scheduler.timesteps:
        predictions = []
        for name, rows in _calls(guidance, batch):
            given = torch.cat([latents, latents]) if guidance == "batched" else latents
            timestep = t / 1000 if subject.flow else t
            args, kwargs = subject.arguments(given, timestep, _rows(conditions, rows, whole))
            with branch(name):
                predictions.append(model(*args, **kwargs)[0])
            computed.append(watch.take() if watch else frozenset[str]())
        outputs += predictions
        halves = predictions[0].chunk(2) if guidance == "batched" else predictions
        noise = halves[0] if len(halves) == 1 else halves[0] + SCALE * (halves[1] - halves[0])
        latents = scheduler.step(noise, t, latents, return_dict=False)[0]
    return Run(tuple(outputs), latents, tuple(computed))
