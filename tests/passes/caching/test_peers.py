"""Every preset gives what the original system gives on the same weights, over a whole generation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from peers.deepcache import BRANCHES, run_deepcache
from peers.diffusers_hooks import run_first_block, run_mag_cache, run_pab, run_taylorseer
from peers.sampling import Guidance, Run, sample, scheduler_of
from peers.subjects import DIT, FLUX, PIXART, UNET

import graphopt
from graphopt.runtime.session import CacheSession

GUIDANCE: tuple[Guidance, ...] = ("none", "batched")
SUBJECTS = {"dit": DIT, "flux": FLUX, "pixart": PIXART, "unet": UNET}
RATIOS = [1.0] + [1.01] * 10 + [0.99] * 9
PROGRAMS: dict[str, graphopt.Program] = {}


def program_of(name: str) -> graphopt.Program:
    if name not in PROGRAMS:
        subject = SUBJECTS[name]
        model = subject.make()
        latents = torch.randn(2, *subject.latents)
        timestep = scheduler_of(subject).timesteps[0]
        args, kwargs = subject.arguments(latents, timestep / 1000 if subject.flow else timestep, subject.conditions(2))
        PROGRAMS[name] = graphopt.capture(model, args, kwargs)
    return PROGRAMS[name]


def run_session(name: str, passes: str, guidance: Guidance) -> tuple[Run, CacheSession]:
    result = graphopt.Pipeline(passes).run(program_of(name))
    session = CacheSession(result)
    subject = SUBJECTS[name]

    @contextmanager
    def branch(name: str) -> Iterator[None]:
        with session.branch(name):
            yield

    run = sample(session, subject, guidance, branch=branch, batch=2 if guidance == "none" else 1)
    return run, session


def assert_equal(ours: Run, theirs: Run) -> None:
    """Bit for bit."""
    for step, (one, other) in enumerate(zip(ours.outputs, theirs.outputs, strict=True)):
        assert torch.equal(one, other), f"step {step}: {float((one - other).abs().max()):.2e}"
    assert torch.equal(ours.latents, theirs.latents)


QUICK = {(3, 0, "batched"), (2, 1, "none"), (5, 2, "batched"), (3, 3, "none")}


@pytest.mark.parametrize(
    ("interval", "branch", "guidance"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product((2, 3, 5), BRANCHES, GUIDANCE)
    ],
)
def test_deepcache(interval: int, branch: int, guidance: Guidance) -> None:
    batch = 2 if guidance == "none" else 1
    theirs = run_deepcache(interval, branch, guidance, batch=batch)
    ours, _ = run_session("unet", f"deepcache{{interval={interval},branch={branch}}}", guidance)
    assert_equal(ours, theirs)


THRESHOLDS = {"pixart": 0.4, "dit": 0.8, "flux": 0.8}


@pytest.mark.parametrize("guidance", [pytest.param("none", marks=pytest.mark.slow), "batched", "sequential"])
@pytest.mark.parametrize("name", THRESHOLDS)
def test_first_block(name: str, guidance: Guidance) -> None:
    theirs = run_first_block(SUBJECTS[name], THRESHOLDS[name], guidance, batch=2 if guidance == "none" else 1)
    ours, session = run_session(name, f"first-block{{threshold={THRESHOLDS[name]}}}", guidance)
    assert_equal(ours, theirs)
    assert {"tail-cached"} < {decision.program for decision in session.decisions}


@pytest.mark.parametrize(("order", "guidance"), [(2, "batched"), pytest.param(1, "none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dit", "flux", "pixart"])
def test_taylorseer(name: str, order: int, guidance: Guidance) -> None:
    batch = 2 if guidance == "none" else 1
    theirs = run_taylorseer(SUBJECTS[name], interval=3, before=2, after=18, order=order, guidance=guidance, batch=batch)
    ours, _ = run_session(name, f"taylorseer{{interval=3,warm_up=2,until=18,order={order}}}", guidance)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("guidance", ["batched", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dit", "flux", "pixart"])
def test_mag_cache(name: str, guidance: Guidance) -> None:
    batch = 2 if guidance == "none" else 1
    theirs = run_mag_cache(SUBJECTS[name], RATIOS, guidance=guidance, batch=batch)
    ours, _ = run_session(name, f"mag-cache{{ratios=[{','.join(map(str, RATIOS))}]}}", guidance)
    assert_equal(ours, theirs)


@pytest.mark.parametrize(("cross", "guidance"), [(3, "batched"), pytest.param(None, "none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dit", "flux", "pixart"])
def test_pab(name: str, cross: int | None, guidance: Guidance) -> None:
    subject = SUBJECTS[name]
    theirs = run_pab(subject, cross_range=cross, guidance=guidance, batch=2 if guidance == "none" else 1)
    passes = "pab" if cross is None else f"pab{{cross_attention={cross}}}"
    result = graphopt.Pipeline(passes).run(program_of(name))
    session = CacheSession(result)
    session.reset(timesteps=[float(int(t)) for t in scheduler_of(subject).timesteps])
    ours = sample(session, subject, guidance, batch=2 if guidance == "none" else 1)
    assert_equal(ours, theirs)
