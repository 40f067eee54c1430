"""The emulator of asynchronous placed graphs beside AsyncDiff by hand, bit for bit."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from rewrite.placing.asyncdiff_by_hand import AsyncDiffByHand
from rewrite.placing.components import assign_modules
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import graphopt
from graphopt.program import Program
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.staging import stage
from graphopt.rewrite.placing.striding import NEXT, stride_two
from graphopt.stages import REPLAY, STEADY, SYNC

STEPS = 20
TIMES = [torch.full((2,), time) for time in torch.linspace(950, 0, STEPS).long().tolist()]


@dataclass(frozen=True, eq=False)
class Subject:
    """A denoiser, its program, the noise it starts from, and what it is told beside the timestep."""

    model: nn.Module
    program: Program
    noise: Tensor
    extra: tuple[Tensor, ...]

    def call(self, model: nn.Module, x: Tensor, time: Tensor) -> Tensor:
        return model(x, time, *self.extra, return_dict=False)[0]

    @torch.no_grad()
    def fresh(self, x: Tensor, time: Tensor) -> Tensor:
        return self.call(self.model, x, time)


DIT_PARTS = ["transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2", "transformer_blocks.3"]
UNET_PARTS = ["conv_in", "down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1", "conv_out"]


def _even(parts: Sequence[str], count: int) -> list[list[str]]:
    bounds = [round(index * len(parts) / count) for index in range(count + 1)]
    return [list(parts[start:end]) for start, end in itertools.pairwise(bounds)]


def _sandwich(parts: Sequence[str], first: int, last: int) -> list[list[str]]:
    """The middle, then the outer parts on one device, which gives the prediction."""
    return [list(parts[first:last]), [*parts[:first], *parts[last:]]]


SPLITS = {
    "dit-2": ("dit", _even(DIT_PARTS, 2)),
    "dit-3": ("dit", _even(DIT_PARTS, 3)),
    "dit-sandwich": ("dit", _sandwich(DIT_PARTS, 1, 3)),
    "unet-2": ("unet", _even(UNET_PARTS, 2)),
    "unet-3": ("unet", _even(UNET_PARTS, 3)),
    "unet-sandwich": ("unet", _sandwich(UNET_PARTS, 2, 5)),
}


@cache
def _subject(name: str) -> Subject:
    torch.manual_seed(0)
    if name == "dit":
        model: nn.Module = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=3,
            num_layers=len(DIT_PARTS),
            sample_size=8,
            num_embeds_ada_norm=10,
            norm_num_groups=8,
        )
        extra: tuple[Tensor, ...] = (torch.tensor([1, 2]),)
        noise = torch.randn(2, 3, 8, 8)
    else:
        model = UNet2DModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        extra, noise = (), torch.randn(2, 3, 16, 16)
    return Subject(model.eval(), graphopt.capture(model.eval(), (noise, TIMES[0], *extra)), noise, extra)


def _emulator(subject: Subject, components: Sequence[Sequence[str]], steps: int = 1, sampler: int = 0) -> Emulator:
    placed = stage(subject.program, assign_modules(subject.program, components), sampler)
    late = delay_edges(placed, steps=steps)
    return Emulator({SYNC: late, STEADY: late})


def _played(split: str, *, warm_up: int, time_shift: bool = False, sampler: int = 0, steps: int = 1) -> list[bool]:
    """Whether each step of the emulator equals that of AsyncDiff by hand, on the sample that the latter leads to."""
    name, components = SPLITS[split]
    subject = _subject(name)
    by_hand = AsyncDiffByHand(subject.model, components, subject.call, TIMES, warm_up=warm_up, time_shift=time_shift)
    emulator = _emulator(subject, components, steps, sampler)
    x, equal = subject.noise, []
    for step, time in enumerate(TIMES):
        wanted = by_hand.predict(step, x)
        seen = TIMES[step - 1] if time_shift and step >= warm_up else time
        found = emulator.run(SYNC if step < warm_up else STEADY, (x, seen, *subject.extra), {})
        equal.append(torch.equal(tree_leaves(found)[0], wanted))
        if step == warm_up:
            assert not torch.equal(wanted, subject.fresh(x, seen)), "nothing is late"
        x = _advance(x, wanted)
    return equal


def _advance(x: Tensor, prediction: Tensor) -> Tensor:
    """The sample of the next step: a share of the prediction is removed."""
    return 1.02 * x - 0.3 * prediction[:, : x.shape[1]]


@pytest.mark.parametrize("warm_up", [1, 2, 3])
@pytest.mark.parametrize("split", SPLITS)
def test_every_step_is_that_of_asyncdiff_by_hand(split: str, warm_up: int) -> None:
    assert _played(split, warm_up=warm_up) == [True] * STEPS


@pytest.mark.parametrize("split", ["dit-3", "unet-sandwich"])
def test_a_shifted_timestep_is_that_of_the_step_before(split: str) -> None:
    assert _played(split, warm_up=2, time_shift=True) == [True] * STEPS


def test_it_is_the_same_wherever_the_sampler_is() -> None:
    assert _played("unet-3", warm_up=1, sampler=2) == [True] * STEPS


def test_values_two_steps_old_are_not_those_of_asyncdiff() -> None:
    assert _played("dit-2", warm_up=2, steps=2) == [True] * 2 + [False] * (STEPS - 2)


@pytest.mark.parametrize("warm_up", [1, 2, 3])
@pytest.mark.parametrize("split", ["dit-2", "dit-3", "unet-2", "unet-sandwich"])
def test_stride_two_is_that_of_asyncdiff_by_hand_with_a_rank_more(split: str, warm_up: int) -> None:
    name, components = SPLITS[split]
    subject = _subject(name)
    by_hand = AsyncDiffByHand(subject.model, components, subject.call, TIMES, warm_up=warm_up, stride=2)
    placed = stage(subject.program, assign_modules(subject.program, components), len(components) - 1)
    late = delay_edges(placed)
    computing, replaying = stride_two(late, "timestep")
    emulator = Emulator({SYNC: late, STEADY: computing, REPLAY: replaying})
    x, equal = subject.noise, []
    for step, time in enumerate(TIMES):
        wanted = by_hand.predict(step, x)
        phase = SYNC if step < warm_up else REPLAY if (step - warm_up) % 2 else STEADY
        following = {NEXT.format("timestep"): TIMES[min(step + 1, STEPS - 1)]} if phase == STEADY else {}
        found = emulator.run(phase, (x, time, *subject.extra), following)
        equal.append(torch.equal(tree_leaves(found)[0], wanted))
        x = _advance(x, wanted)
    assert equal == [True] * STEPS
