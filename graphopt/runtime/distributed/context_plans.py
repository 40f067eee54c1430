"""The part of diffusers that splits the tokens of a model over processes, as far as graphopt calls it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from graphopt.errors import GraphoptError, MissingExtraError

_MODULES = ("models._modeling_parallel", "hooks.context_parallel", "models.attention_dispatch")
_WITHOUT_RING = "native"
"""Attention backend whose operator does not tell the log-sum-exp that ring attention joins parts by."""


class ContextPlans:
    """What diffusers offers for context parallelism.

    Attributes:
        version: of diffusers.

    Raises:
        MissingExtraError: diffusers is not installed.
        GraphoptError: it is too old.
    """

    def __init__(self) -> None:
        try:
            self.version = str(import_module("diffusers").__version__)
        except ImportError as error:
            raise MissingExtraError("diffusers") from error
        try:
            self._parallel, self._hooks, dispatch = (import_module(f"diffusers.{name}") for name in _MODULES)
            self._backends: Any = dispatch._AttentionBackendRegistry
        except (ImportError, AttributeError) as error:
            raise GraphoptError(
                f"found diffusers {self.version}, wanted one that knows context parallelism; install a later one, or "
                "split the tokens with partition{devices=K,mode=patch}"
            ) from error

    def require(self, model: Any, ring: int, ulysses: int) -> None:
        """Refuse models that cannot be split so.

        Raises:
            GraphoptError: the model has no plan, is split already, or its heads or attention do not allow it.
        """
        name, heads = type(model).__name__, getattr(getattr(model, "config", None), "num_attention_heads", None)
        if getattr(model, "_cp_plan", None) is None or not hasattr(model, "enable_parallelism"):
            raise GraphoptError(
                f"{name} has no plan for context parallelism (_cp_plan), wanted a diffusers model that has one; split "
                "its tokens, rows or frames with partition{devices=K,mode=patch}"
            )
        if getattr(model, "_parallel_config", None) is not None:
            raise GraphoptError(f"this {name} is split over processes already; end that first, or load it again")
        if isinstance(heads, int) and heads % ulysses:
            raise GraphoptError(
                f"{name} has {heads} heads, wanted a multiple of ulysses={ulysses}; give a divisor of {heads}"
            )
        for backend in self._attention_backends(model):
            self._require_backend(name, backend, ring)

    def text(self, model: Any) -> str:
        """Return the plan of a model as text."""
        return str(model._cp_plan)

    def enable(self, model: Any, mesh: DeviceMesh, degrees: tuple[int, int]) -> None:
        """Split a model's work.

        Args:
            model: the model.
            mesh: processes by ring and place in it.
            degrees: sizes of both.
        """
        ring, ulysses = degrees
        config = self._parallel.ContextParallelConfig(ring_degree=ring, ulysses_degree=ulysses, mesh=mesh)
        if torch.accelerator.device_count():
            model.enable_parallelism(config=config)
        else:
            self._enable_on_cpu(model, config)

    def disable(self, model: Any) -> None:
        """Take out of a model what `enable` put in."""
        if getattr(model, "_parallel_config", None) is None:
            return
        self._hooks.remove_context_parallel(model, model._cp_plan)
        for processor in _processors(model):
            processor._parallel_config = None
        model._parallel_config = None

    def _enable_on_cpu(self, model: Any, config: Any) -> None:
        """Do what the model's method does, which divides by the number of accelerators."""
        parallel = self._parallel.ParallelConfig(context_parallel_config=config)
        parallel.setup(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), mesh=config.mesh)
        model._parallel_config = parallel
        for processor in _processors(model):
            processor._parallel_config = parallel
        self._hooks.apply_context_parallel(model, config, model._cp_plan)

    def _attention_backends(self, model: nn.Module) -> set[Any]:
        default = self._backends.get_active_backend()[0]
        named = {getattr(processor, "_attention_backend", None) for processor in _processors(model)}
        return {default if backend is None else backend for backend in named}

    def _require_backend(self, name: str, backend: Any, ring: int) -> None:
        text = str(getattr(backend, "value", backend))
        able = sorted(self._backends._supports_context_parallel)
        if ring > 1:
            able.remove(_WITHOUT_RING)
        if text not in able:
            raise GraphoptError(
                f"the attention of this {name} runs by {text}, wanted for ring={ring} one of {', '.join(able)}; choose "
                "one with model.set_attention_backend(...), or give ulysses= instead of ring= where none runs here"
            )


def _processors(model: nn.Module) -> list[Any]:
    """What computes attention in a model, where it takes part in splitting."""
    found = [getattr(module, "processor", None) for module in model.modules()]
    return [processor for processor in found if hasattr(processor, "_parallel_config")]
