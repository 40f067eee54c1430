"""DeepCache as its authors publish it (PyPI package DeepCache 0.1.1), run on the tiny U-Net.

What its helper does, as far as equality depends on it:

* A step is its index in `list(scheduler.timesteps)`, counted from the first one seen. It is full where that is a
  multiple of the interval.
* A branch is block `branch // 3`, layer `branch % 3`, counted from the output end. In a cached step the up path begins
  at that layer with the hidden state that it had before it in the last full step: the first operand of the
  `branch`-th concatenation from the last. Down layers up to that depth run afresh and feed the skips that are read.
* Stored is what each module returned, as it is: no arithmetic, no change of dtype. So equality is bit for bit.

References:
    Ma, Fang, Wang. DeepCache: Accelerating Diffusion Models for Free. CVPR 2024, arXiv 2312.00858.
"""

from __future__ import annotations

from types import SimpleNamespace

from DeepCache import DeepCacheSDHelper
from peers.sampling import STEPS, Guidance, Run, Watch, sample, scheduler_of
from peers.subjects import UNET

INTERVALS = (2, 3, 5)
BRANCHES = (0, 1, 2, 3)
MIDDLE = "mid_block.resnets.0.conv1"
"""Runs in full steps and in no other."""


def full_steps(interval: int, steps: int = STEPS) -> tuple[int, ...]:
    """Indices of the full steps."""
    return tuple(range(0, steps, interval))


def run_deepcache(interval: int, branch: int, guidance: Guidance = "none", steps: int = STEPS, batch: int = 1) -> Run:
    """Sample from the tiny U-Net under the helper. It has one state for all calls: guidance in one batch only."""
    unet = UNET.make()
    scheduler = scheduler_of(UNET, steps)
    watch = Watch(unet, [MIDDLE])
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=unet, scheduler=scheduler))
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    return sample(unet, UNET, guidance, scheduler=scheduler, watch=watch, batch=batch)
