"""Denoisers spread over devices, each emulated in one process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rewrite.placing.asyncdiff_by_hand import AsyncDiffByHand
from rewrite.placing.components import assign_modules
from torch import Tensor, nn

from graphopt.demo.caching_quality import Denoiser
from graphopt.program import Program
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import cut
from graphopt.rewrite.placing.staging import stage
from graphopt.rewrite.sharding.sharded import shard
from graphopt.stages import STEADY, SYNC
from partition_quality_comparison.splits import Components, Splitter
from partition_quality_comparison.ways import Way

PATCHES = 4
"""Patches that pass a pipeline: one for each row of the transformer's tokens."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is spread.

    Attributes:
        model: The denoiser.
        program: Captured from it; its first input has the batch first.
        modules: Names of those of its modules that are spread, in the order in which they are computed.
        times: Times of the steps of a generation, in the order of the steps.
    """

    model: nn.Module
    program: Program
    modules: Sequence[str]
    times: Sequence[float]


@dataclass(frozen=True, eq=False)
class Layout:
    """A denoiser on several devices.

    Attributes:
        denoiser: Computes what they compute.
        share: Time of a step after the warm-up over that of one device, if messages took none.
        sent_bytes: Bytes of all messages of such a step for one image; None where they were not counted.
    """

    denoiser: Denoiser
    share: float
    sent_bytes: float | None


class Emulated:
    """A placed graph as a denoiser.

    Args:
        placed: The graph, with delays.
        warm_up: First steps of a generation that are synchronous.
    """

    def __init__(self, placed: Placed, warm_up: int) -> None:
        self._emulator = Emulator({SYNC: placed, STEADY: placed})
        self._warm_up = warm_up
        self._step = 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the next step."""
        phase = SYNC if self._step < self._warm_up else STEADY
        self._step += 1
        predicted: Tensor = self._emulator.run(phase, (x, t, y), {})
        return predicted

    def reset(self) -> None:
        """Start a new generation."""
        self._emulator.reset()
        self._step = 0


class EveryOther:
    """AsyncDiff with stride 2, by hand.

    Args:
        subject: What is spread.
        components: Modules of each device; one more computes those of the last one too.
        warm_up: First steps of a generation that are synchronous.
    """

    def __init__(self, subject: Subject, components: Components, warm_up: int) -> None:
        self._subject, self._components, self._warm_up = subject, components, warm_up
        self._step = 0
        self._by_hand: AsyncDiffByHand | None = None

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the next step, or give what was computed with the one before."""
        if self._by_hand is None:
            times = [torch.full_like(t, time) for time in self._subject.times]
            self._by_hand = AsyncDiffByHand(
                self._subject.model,
                self._components,
                lambda model, x, t: model(x, t, y),
                times,
                warm_up=self._warm_up,
                stride=2,
            )
        self._step += 1
        return self._by_hand.predict(self._step - 1, x)

    def reset(self) -> None:
        """Start a new generation."""
        self._step, self._by_hand = 0, None


def _asynchronous(subject: Subject, way: Way) -> Layout:
    splitter = Splitter(subject.program, subject.modules)
    if way.stride == 1:
        return _late(subject, splitter, splitter.contiguous(way.devices), way)
    components = splitter.contiguous(way.devices - 1)
    return Layout(EveryOther(subject, components, way.warm_up), splitter.share(components), None)


def _sandwiched(subject: Subject, way: Way) -> Layout:
    splitter = Splitter(subject.program, subject.modules)
    return _late(subject, splitter, splitter.sandwich(), way)


def _late(subject: Subject, splitter: Splitter, components: Components, way: Way) -> Layout:
    placed = stage(subject.program, assign_modules(subject.program, components), sampler=way.devices - 1)
    return _emulated(delay_edges(placed, extrapolate=way.extrapolate), splitter.share(components), way)


def _displaced(subject: Subject, way: Way) -> Layout:
    """As many patches as devices; what is not divided is computed by all."""
    sharded = shard(subject.program, way.devices, displaced=True, extrapolate=way.extrapolate)
    return _emulated(sharded.placed, 1 - sharded.share * (1 - 1 / way.devices), way)


def _patch_pipeline(subject: Subject, way: Way) -> Layout:
    """Patches pass the devices one after the other; the sampler waits for all of them, so the line runs dry."""
    splitter = Splitter(subject.program, subject.modules)
    components = splitter.contiguous(way.devices)
    devices: dict[str, int] = {}
    for device, names in enumerate(assign_modules(subject.program, components)):
        devices.update({name: device for name in names if name not in devices})
    sharded = shard(subject.program, PATCHES, devices=devices, displaced=True, extrapolate=way.extrapolate)
    share = splitter.share(components) * (PATCHES + way.devices - 1) / PATCHES
    return _emulated(sharded.placed, share, way)


def _emulated(placed: Placed, share: float, way: Way) -> Layout:
    rows = len(placed.program.args[0])
    steady = cut({SYNC: placed, STEADY: placed}).phases[STEADY]
    return Layout(Emulated(placed, way.warm_up), share, steady.size_bytes / rows)


LAYOUTS: Mapping[str, Callable[[Subject, Way], Layout]] = {
    "async": _asynchronous,
    "async sandwich": _sandwiched,
    "displaced patches": _displaced,
    "patch pipeline": _patch_pipeline,
}
"""Makes the layout of a way, by its name."""
