"""What takes part in a contest: the plain model, the original systems, and graphopt's sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers.hooks as cache_hooks
import torch
from DeepCache import DeepCacheSDHelper
from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context
from peers.diffusers_hooks import ATTENTION
from peers.sampling import Watch, scheduler_of
from torch import Tensor, nn

import graphopt
from caching_comparison.subjects import Timed
from graphopt.exporters import OnnxCachedDenoiser
from graphopt.runtime.session import CacheSession

FULL_PROGRAMS = {"full", "refresh", "tail-full"}


@dataclass(frozen=True)
class Player:
    """One system that denoises.

    Attributes:
        call: called like the model.
        scheduler: its own, since some systems read it.
        start: begins a generation.
        was_full: whether the last call computed everything.
        held_bytes: bytes that are kept for later steps.
    """

    call: Callable[..., Any]
    scheduler: Any
    start: Callable[[], None] = lambda: None
    was_full: Callable[[], bool] = lambda: True
    held_bytes: Callable[[], int] = lambda: 0


def baseline(timed: Timed, steps: int) -> Player:
    """The model alone."""
    return Player(timed.subject.make(), scheduler_of(timed.subject, steps))


# ------------------------------------------------------------------ the originals


def deepcache(timed: Timed, steps: int, *, interval: int, branch: int) -> Player:
    """The helper that DeepCache's authors publish. It has no reset; step 0 is full and writes everything anew."""
    model = timed.subject.make()
    scheduler = scheduler_of(timed.subject, steps)
    watch = Watch(model, [timed.deep])
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=model, scheduler=scheduler))
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    return Player(
        model, scheduler, was_full=lambda: bool(watch.take()), held_bytes=lambda: size_bytes(helper.cached_output)
    )


def first_block(timed: Timed, steps: int, *, threshold: float) -> Player:
    """First-block cache as a hook of diffusers."""
    config = cache_hooks.FirstBlockCacheConfig(threshold=threshold)
    return _hooked(timed, steps, lambda model: cache_hooks.apply_first_block_cache(model, config))


def taylorseer(timed: Timed, steps: int, *, interval: int, warm_up: int, order: int) -> Player:
    """TaylorSeer as a hook of diffusers, on every attention, factors in float32."""
    config = cache_hooks.TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=warm_up,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=list(ATTENTION),
    )
    return _hooked(timed, steps, lambda model: cache_hooks.apply_taylorseer_cache(model, config))


def _hooked(timed: Timed, steps: int, apply: Callable[[nn.Module], None]) -> Player:
    """A model with hooks. The context is set once a generation; pipelines set it at every call, which takes longer."""
    model = timed.subject.make()
    registry = HookRegistry.check_if_exists_or_initialize(model)
    watch = Watch(model, [timed.deep])
    apply(model)

    def start() -> None:
        registry.reset_stateful_hooks(recurse=True)
        _set_cache_context(model, CacheContext("inference"))

    scheduler = scheduler_of(timed.subject, steps)
    return Player(model, scheduler, start, lambda: bool(watch.take()), lambda: size_bytes(list(_states(model))))


def _states(model: nn.Module) -> Iterator[Any]:
    """What the hooks of a model hold, through their state managers."""
    registries = [vars(module)["_diffusers_hook"] for module in model.modules() if "_diffusers_hook" in vars(module)]
    for registry in registries:
        for hook in registry.hooks.values():
            manager = getattr(hook, "state_manager", None)
            yield from ([] if manager is None else map(vars, manager._state_cache.values()))


# ------------------------------------------------------------------ graphopt


def eager(timed: Timed, steps: int, result: graphopt.Result) -> Player:
    """A session as it is."""
    return _session(timed, steps, CacheSession(result))


def compiled(timed: Timed, steps: int, result: graphopt.Result) -> Player:
    """A session whose programs are compiled, each in one graph."""
    session = CacheSession(result)
    session.compile()
    return _session(timed, steps, session)


def onnx(timed: Timed, steps: int, result: graphopt.Result, folder: Path) -> Player:
    """ONNX Runtime on the exported files, which the contest itself compares with the eager session."""
    graphopt.export_onnx(result, folder, verify=False)
    return _session(timed, steps, OnnxCachedDenoiser(folder, threads=1))


def _session(timed: Timed, steps: int, session: CacheSession | OnnxCachedDenoiser) -> Player:
    scheduler = scheduler_of(timed.subject, steps)
    timesteps = scheduler.timesteps.tolist()
    return Player(
        session,
        scheduler,
        lambda: session.reset(timesteps=timesteps),
        lambda: session.decisions[-1].program in FULL_PROGRAMS,
        lambda: session.cache_bytes + getattr(session, "hoisted_bytes", 0),
    )


# ------------------------------------------------------------------ memory


def size_bytes(held: Any) -> int:
    """Bytes of all tensors in nested containers; memory that two tensors share counts once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in _tensors(held)}
    return sum(storage.nbytes() for storage in storages.values())


def _tensors(held: Any) -> Iterator[Tensor]:
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        yield from _tensors(list(held.values()))
    elif isinstance(held, list | tuple):
        for item in held:
            yield from _tensors(item)
