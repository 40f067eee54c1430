"""The caches that diffusers brings along as hooks, run on tiny transformers.

What diffusers 0.42.1 computes, as far as equality depends on it. State lives per name of the cache context, except in
PAB; blocks are the module lists of the transformer one after another, its two-stream blocks before its single ones.

First block: r = h1 - h0 over the first block's hidden stream, in the model's dtype. d = mean|r - r'| / mean|r'| with r'
of the last computed step, read as a Python float; the step is computed where there is no r' or d > threshold. Then
r' = r and R = h_last - h1 are stored; otherwise the head goes on from R + h1, and r' stays. The text stream has its
own R of the same form.

TaylorSeer: counts calls from 0. Step s is full where s < B (`disable_cache_before_step`), or (s - B - 1) mod interval
is 0, or s is at or past `disable_cache_after_step`; with B = 3 and interval 5 these are 0, 1, 2, 4, 9, 14, 19. A full
step stores f[0] = y and f[j+1] = (f[j] - f'[j]) / (s - s'), primes being what the full step before stored; as many
orders as there have been full steps, up to the maximum. A predicted step returns sum of f[k] * (offset**k / k!), added
from order 0 up to a tensor of zeros; offset counts from the last full step. Each hooked module has its own.

PAB: each attention module counts its calls, over all contexts. It is computed where nothing is stored, at the first
call, where not low < t < high, or where its count is a multiple of its range. What it returned is stored, pre-gate.

MagCache: R = h_last - h0 over the whole stack, hidden stream only, stored at computed steps; a skipped step goes on
from h0 + R, and the text stream as it came in. From step int(retention * steps + 0.5) on: ratio *= ratios[s]; count +=
1; err += |1 - ratio|; skipped where err <= threshold and count <= max_skip_steps, else all three start over at 1, 0, 0.
The ratios are a float32 tensor, so these sums are float32 too. After the last step the state starts over.

References:
    Liu et al. From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers. ICCV 2025, arXiv 2503.06923.
    Zhao et al. Real-Time Video Generation with Pyramid Attention Broadcast. ICLR 2025, arXiv 2408.12588.
    Ma et al. MagCache: Fast Video Generation with Magnitude-Aware Cache. NeurIPS 2025, arXiv 2506.09045.
    Liu et al. Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model. CVPR 2025, arXiv 2411.19108.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import hooks
from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context
from peers.sampling import STEPS, Branch, Guidance, Run, Watch, sample, scheduler_of
from peers.subjects import Subject
from torch import nn

ATTENTION = (r"transformer_blocks\.\d+\.attn\d?", r"single_transformer_blocks\.\d+\.attn")
"""Names of attention modules that the default patterns miss where a block has two of them."""


def leaves(model: nn.Module) -> list[str]:
    """One projection of every attention module: it runs where the attention is computed."""
    return [name for name, _ in model.named_modules() if name.endswith("to_q")]


def branches_of(model: nn.Module) -> Branch:
    """The model's cache contexts, also for classes without a method for them."""

    @contextmanager
    def branch(name: str) -> Iterator[None]:
        _set_cache_context(model, CacheContext(name))
        try:
            yield
        finally:
            _set_cache_context(model, None)

    return branch


def _run(subject: Subject, guidance: Guidance, batch: int, apply: Callable[[nn.Module], None]) -> Run:
    model = subject.make()
    HookRegistry.check_if_exists_or_initialize(model)
    watch = Watch(model, leaves(model))
    apply(model)
    return sample(model, subject, guidance, branch=branches_of(model), watch=watch, batch=batch)


def run_first_block(subject: Subject, threshold: float, guidance: Guidance = "none", batch: int = 1) -> Run:
    """Sample under the first-block cache."""
    config = hooks.FirstBlockCacheConfig(threshold=threshold)
    return _run(subject, guidance, batch, lambda model: hooks.apply_first_block_cache(model, config))


def run_taylorseer(
    subject: Subject,
    *,
    interval: int = 5,
    before: int = 3,
    after: int | None = None,
    order: int = 1,
    guidance: Guidance = "none",
    batch: int = 1,
    identifiers: Sequence[str] = ATTENTION,
) -> Run:
    """Sample under TaylorSeer on the modules whose full names match, factors in float32."""
    config = hooks.TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=before,
        disable_cache_after_step=after,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=list(identifiers),
    )
    return _run(subject, guidance, batch, lambda model: hooks.apply_taylorseer_cache(model, config))


def run_pab(
    subject: Subject,
    *,
    self_range: int = 2,
    cross_range: int | None = None,
    window: tuple[int, int] = (100, 800),
    guidance: Guidance = "none",
    batch: int = 1,
) -> Run:
    """Sample under pyramid attention broadcast; the timestep is the scheduler's."""
    model = subject.make()
    watch = Watch(model, leaves(model))
    scheduler = scheduler_of(subject)
    calls_of_a_step = 2 if guidance == "sequential" else 1
    calls = iter([int(t) for t in scheduler.timesteps for _ in range(calls_of_a_step)])
    now = [0]

    @contextmanager
    def branch(_: str) -> Iterator[None]:
        now[0] = next(calls)
        yield

    config = hooks.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=self_range,
        cross_attention_block_skip_range=cross_range,
        spatial_attention_timestep_skip_range=window,
        cross_attention_timestep_skip_range=window,
        current_timestep_callback=lambda: now[0],
    )
    hooks.apply_pyramid_attention_broadcast(model, config)
    return sample(model, subject, guidance, scheduler=scheduler, branch=branch, watch=watch, batch=batch)


def run_mag_cache(
    subject: Subject,
    ratios: Sequence[float],
    *,
    threshold: float = 0.06,
    max_skip_steps: int = 3,
    retention_ratio: float = 0.2,
    guidance: Guidance = "none",
    batch: int = 1,
) -> Run:
    """Sample under MagCache with given magnitude ratios."""
    config = hooks.MagCacheConfig(
        threshold=threshold,
        max_skip_steps=max_skip_steps,
        retention_ratio=retention_ratio,
        num_inference_steps=STEPS,
        mag_ratios=list(ratios),
    )
    return _run(subject, guidance, batch, lambda model: hooks.apply_mag_cache(model, config))
