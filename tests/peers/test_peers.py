"""The peers really cache on the tiny models, at the steps that their docstrings say."""

import pytest
import torch
from peers.deepcache import BRANCHES, INTERVALS, MIDDLE, full_steps, run_deepcache
from peers.diffusers_hooks import run_first_block, run_mag_cache, run_pab, run_taylorseer
from peers.sampling import STEPS, Guidance, Run, sample
from peers.subjects import DIT, FLUX, PIXART, UNET, Subject

GUIDANCE: tuple[Guidance, ...] = ("none", "batched")
THRESHOLDS = {"pixart": (PIXART, 0.4), "dit": (DIT, 0.8), "flux": (FLUX, 0.8)}
RATIOS = [1.0] + [1.01] * 10 + [0.99] * 9


def computed(run: Run) -> list[int]:
    """Indices of the calls at which every attention ran."""
    most = max(len(names) for names in run.computed)
    return [step for step, names in enumerate(run.computed) if len(names) == most]


def assert_caches(run: Run, subject: Subject, guidance: Guidance) -> None:
    plain = sample(subject.make(), subject, guidance)
    assert torch.equal(run.outputs[0], plain.outputs[0])
    assert run.latents.isfinite().all()
    distance = (run.latents - plain.latents).norm() / plain.latents.norm()
    assert 1e-3 < distance < 1, "the cache is too weak or too wild to tell right from wrong"


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("interval", INTERVALS)
def test_deepcache_is_full_at_multiples_of_the_interval(interval: int, guidance: Guidance) -> None:
    runs = [run_deepcache(interval, branch, guidance) for branch in BRANCHES]
    for run in runs:
        assert [step for step, names in enumerate(run.computed) if MIDDLE in names] == list(full_steps(interval))
        assert_caches(run, UNET, guidance)
    assert len({float(run.latents.sum()) for run in runs}) == len(BRANCHES)


@pytest.mark.parametrize("guidance", [*GUIDANCE, "sequential"])
@pytest.mark.parametrize("name", THRESHOLDS)
def test_first_block_decides_by_its_threshold(name: str, guidance: Guidance) -> None:
    subject, threshold = THRESHOLDS[name]
    run = run_first_block(subject, threshold, guidance)
    calls = len(run.outputs)
    assert calls // 5 < len(computed(run)) < calls * 4 // 5
    assert_caches(run, subject, guidance)
    if guidance == "sequential":
        assert computed(run)[:2] == [0, 1], "each branch has its own state"


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("subject", [PIXART, DIT, FLUX])
def test_taylorseer_is_full_where_its_formula_says(subject: Subject, guidance: Guidance) -> None:
    run = run_taylorseer(subject, interval=5, before=3, order=1, guidance=guidance)
    assert computed(run) == [0, 1, 2, 4, 9, 14, 19]
    assert_caches(run, subject, guidance)
    late = run_taylorseer(subject, interval=3, before=2, after=18, order=2, guidance=guidance)
    assert computed(late) == [0, 1, 3, 6, 9, 12, 15, 18, 19]
    assert_caches(late, subject, guidance)


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("subject", [PIXART, DIT])
def test_pab_is_full_outside_its_window_and_at_multiples(subject: Subject, guidance: Guidance) -> None:
    run = run_pab(subject, self_range=2, window=(100, 800), guidance=guidance)
    times = range(950, -1, -50)
    full = [step for step, t in enumerate(times) if not 100 < t < 800 or step % 2 == 0]
    own = [step for step, names in enumerate(run.computed) if any("attn1" in name for name in names)]
    assert own == full
    assert_caches(run, subject, guidance)


def test_pab_gives_cross_attention_a_range_of_its_own() -> None:
    run = run_pab(PIXART, self_range=2, cross_range=3, window=(-1, 1001))
    crossed = [step for step, names in enumerate(run.computed) if any("attn2" in name for name in names)]
    assert crossed == list(range(0, STEPS, 3))


def _mag_steps(ratios: list[float], threshold: float, skips: int, retention: float) -> list[int]:
    full, ratio, error, count = [], torch.tensor(1.0), torch.tensor(0.0), 0
    for step in range(STEPS):
        if step >= int(retention * STEPS + 0.5):
            ratio = ratio * torch.tensor(ratios)[step]
            count += 1
            error = error + (1.0 - ratio).abs()
            if error <= threshold and count <= skips:
                continue
            ratio, error, count = torch.tensor(1.0), torch.tensor(0.0), 0
        full.append(step)
    return full


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("subject", [PIXART, DIT, FLUX])
def test_mag_cache_sums_its_ratios(subject: Subject, guidance: Guidance) -> None:
    run = run_mag_cache(subject, RATIOS, guidance=guidance)
    assert computed(run) == _mag_steps(RATIOS, 0.06, 3, 0.2) == [0, 1, 2, 3, 6, 9, 13, 17]
    assert_caches(run, subject, guidance)
