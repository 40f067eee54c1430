"""Whether torch.compile and torch.export take a program, or a model in the state in which a cache has left it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import hooks
from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context
from peers.diffusers_hooks import ATTENTION
from peers.sampling import scheduler_of
from peers.subjects import PIXART, UNET, Subject, normal
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Call:
    """A model and what it is about to be called with."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Any:
        """Call it."""
        with torch.no_grad():
            return self.model(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Attempt:
    """What came of it.

    Attributes:
        error: type of the error, None where there was none.
        equal: whether the outputs on the same inputs are those of the model itself, bit for bit.
        baked: bytes of tensors that became constants of the graph and are no weights or buffers of the model.
    """

    error: str | None = None
    equal: bool = False
    baked: int = 0

    def __str__(self) -> str:
        """Return a few words."""
        if self.error is not None:
            return f"fails, {self.error}"
        result = "equal" if self.equal else "other outputs"
        return f"{result}, {self.baked:,} bytes baked in" if self.baked else result


def attempt_compile(make: Callable[[], Call]) -> Attempt:
    """Compile into one graph, without generating code, and run it.

    Args:
        make: gives the same model in the same state at each call.
    """
    expected, call = make()(), make()
    torch.compiler.reset()
    compiled = torch.compile(call.model, fullgraph=True, backend="eager")
    return _attempt(lambda: Attempt(equal=same(compiled(*call.args, **call.kwargs), expected)))


def attempt_export(make: Callable[[], Call]) -> Attempt:
    """Export, and run what came out; see `attempt_compile`."""
    expected, call = make()(), make()

    def export() -> Attempt:
        exported = torch.export.export(call.model, call.args, dict(call.kwargs), strict=False)
        baked = _baked(exported.constants.values(), call.model)
        return Attempt(equal=same(exported.module()(*call.args, **call.kwargs), expected), baked=baked)

    return _attempt(export)


def same(one: Any, other: Any) -> bool:
    """Whether two outputs of a model are equal, bit for bit."""
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def _baked(constants: Any, model: nn.Module) -> int:
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    strangers = [one for one in constants if isinstance(one, Tensor) and one.untyped_storage()._cdata not in own]
    return sum(tensor.numel() * tensor.element_size() for tensor in strangers)


def _attempt(attempt: Callable[[], Attempt]) -> Attempt:
    try:
        with torch.no_grad():
            return attempt()
    except Exception as error:  # whatever the compilers raise is what was asked for
        return Attempt(error=type(error).__name__)


# ------------------------------------------------------------------ the originals at a step


def deepcache_at(step: int) -> Call:
    """The tiny U-Net under DeepCache's helper, interval 3, before one of its steps."""
    unet, scheduler = UNET.make(), scheduler_of(UNET)
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=unet, scheduler=scheduler))
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()
    return _advanced(unet, UNET, scheduler, step)


def first_block_at(step: int) -> Call:
    """The tiny PixArt under the first-block hook, which takes every step but the first from its cache."""
    config = hooks.FirstBlockCacheConfig(threshold=1e3)
    return _hooked(step, lambda model: hooks.apply_first_block_cache(model, config))


def taylorseer_at(step: int) -> Call:
    """The tiny PixArt under the TaylorSeer hook, full at steps 0, 1, 3, 6 and so on."""
    config = hooks.TaylorSeerCacheConfig(
        cache_interval=3,
        disable_cache_before_step=2,
        max_order=1,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=list(ATTENTION),
    )
    return _hooked(step, lambda model: hooks.apply_taylorseer_cache(model, config))


def _hooked(step: int, apply: Callable[[nn.Module], None]) -> Call:
    model = PIXART.make()
    HookRegistry.check_if_exists_or_initialize(model)
    apply(model)
    _set_cache_context(model, CacheContext("inference"))
    return _advanced(model, PIXART, scheduler_of(PIXART), step)


def _advanced(model: nn.Module, subject: Subject, scheduler: Any, step: int) -> Call:
    calls = []
    for number, timestep in enumerate(scheduler.timesteps[: step + 1]):
        latents = normal(2, *subject.latents, seed=number)
        calls.append(Call(model, *subject.arguments(latents, timestep, subject.conditions(2))))
    for call in calls[:-1]:
        call()
    return calls[-1]
