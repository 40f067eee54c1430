"""Presets give what the systems they are named after give: same weights, twenty steps, with and without guidance."""

from functools import cache

import pytest
import torch
from peers.deepcache import BRANCHES, INTERVALS, run_deepcache
from peers.diffusers_hooks import run_first_block, run_mag_cache, run_pab, run_taylorseer
from peers.sampling import Guidance, Run, sample, scheduler_of
from peers.subjects import DIT, FLUX, PIXART, UNET, Subject, normal

from graphopt import capture
from graphopt.pass_manager import PassContext, Pipeline, Result
from graphopt.program import Program
from graphopt.runtime.pipelines import enable_cache

TRANSFORMERS = {"pixart": PIXART, "dit": DIT, "flux": FLUX}
BATCHED: tuple[Guidance, ...] = ("none", "batched")
EVERY: tuple[Guidance, ...] = ("none", "batched", "sequential")
pytestmark = pytest.mark.slow
RATIOS = [1.0] + [1.01] * 10 + [0.99] * 9


@cache
def program_of(subject: Subject) -> Program:
    timestep = torch.tensor(0.5 if subject.flow else 5)
    args, kwargs = subject.arguments(normal(2, *subject.latents), timestep, subject.conditions(2))
    return capture(subject.make(), args, kwargs)


@cache
def result_of(subject: Subject, passes: str) -> Result:
    return Pipeline(passes).run(program_of(subject), PassContext(verify=False))


def run(subject: Subject, passes: str, guidance: Guidance) -> tuple[Run, list[str]]:
    """Sample with a cache; returns the program of each call too."""
    result = result_of(subject, passes)
    scheduler = scheduler_of(subject)
    stand_in = enable_cache(subject.make(), result, scheduler=scheduler)
    found = sample(stand_in, subject, guidance, scheduler=scheduler, branch=stand_in.cache_context)
    return found, [decision.program for decision in stand_in.decisions]


def assert_equal(ours: Run, theirs: Run) -> None:
    """Bit for bit, at every call."""
    for call, (mine, peer) in enumerate(zip(ours.outputs, theirs.outputs, strict=True)):
        assert torch.equal(mine, peer), f"call {call} differs by {(mine - peer).abs().max()}"
    assert torch.equal(ours.latents, theirs.latents)


@pytest.mark.parametrize("guidance", BATCHED)
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_deepcache(interval: int, branch: int, guidance: Guidance) -> None:
    ours, programs = run(UNET, f"deepcache{{interval={interval},branch={branch}}}", guidance)
    assert programs == ["cached" if step % interval else "full" for step in range(20)]
    assert_equal(ours, run_deepcache(interval, branch, guidance))


@pytest.mark.parametrize("guidance", EVERY)
@pytest.mark.parametrize(("name", "threshold"), [("pixart", 0.4), ("dit", 0.8), ("flux", 0.8)])
def test_first_block(name: str, threshold: float, guidance: Guidance) -> None:
    subject = TRANSFORMERS[name]
    ours, programs = run(subject, f"first-block{{threshold={threshold}}}", guidance)
    theirs = run_first_block(subject, threshold, guidance)
    most = max(map(len, theirs.computed))
    assert ["cached" in program for program in programs] == [len(names) < most for names in theirs.computed]
    assert_equal(ours, theirs)


@pytest.mark.parametrize("guidance", EVERY)
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("order", [1, 2])
def test_taylorseer(name: str, order: int, guidance: Guidance) -> None:
    ours, _ = run(TRANSFORMERS[name], f"taylorseer{{interval=4,warm_up=3,order={order}}}", guidance)
    theirs = run_taylorseer(TRANSFORMERS[name], interval=4, before=3, order=order, guidance=guidance)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("guidance", BATCHED)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_pab(name: str, guidance: Guidance) -> None:
    ours, _ = run(TRANSFORMERS[name], "pab{self_attention=2,window=[100.0,800.0]}", guidance)
    assert_equal(ours, run_pab(TRANSFORMERS[name], guidance=guidance))


def test_pab_with_another_period_for_cross_attention() -> None:
    ours, _ = run(PIXART, "pab{self_attention=2,cross_attention=3,window=[100.0,800.0]}", "batched")
    assert_equal(ours, run_pab(PIXART, self_range=2, cross_range=3, guidance="batched"))


@pytest.mark.parametrize("guidance", EVERY)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_mag_cache(name: str, guidance: Guidance) -> None:
    """It skips the whole stack, so where only blocks read the text a skipped step ignores it, as the original does."""
    ratios = ",".join(map(str, RATIOS))
    ours, _ = run(TRANSFORMERS[name], f"mag-cache{{ratios=[{ratios}],allow_dead=[encoder_hidden_states]}}", guidance)
    assert_equal(ours, run_mag_cache(TRANSFORMERS[name], RATIOS, guidance=guidance))
