"""What an entry of the zoo is, and how its model and inputs are made: seeded, in eval mode, nothing degenerate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import nn

Maker = Callable[[], Any]
"""Makes one argument, from torch's global random state."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of one forward call."""

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model in eval mode with its positional and named arguments."""

LIBRARIES = ("peer_failures", "torchvision", "timm", "transformers", "diffusers", "others")
"""Where the entries come from; ``peer_failures`` holds hand-written modules, ``others`` many small packages."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (*_BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)
_MODULES = {library: f"zoo.{library}_models" for library in LIBRARIES} | {
    "peer_failures": "zoo.peer_failures",
    "others": "zoo.other_models",
}


@dataclass(frozen=True)
class Entry:
    """One small architecture.

    Attributes:
        name: Unique within its library; usable as a pytest id.
        library: One of :data:`LIBRARIES`.
        build: Makes a fresh model with inputs, the same values at every call. Batch size is 2.
    """

    name: str
    library: str
    build: Callable[[], Built]


def entries(library: str) -> tuple[Entry, ...]:
    """The entries of one of :data:`LIBRARIES`; only that library is imported."""
    return cast(tuple[Entry, ...], import_module(_MODULES[library]).ENTRIES)


def entry(name: str, library: str, model: Callable[[], nn.Module], inputs: Callable[[], Inputs]) -> Entry:
    """An entry whose random state is its own: global state is neither read nor moved.

    Args:
        name: Name of the entry.
        library: One of :data:`LIBRARIES`.
        model: Makes the model.
        inputs: Makes the inputs, after the model.
    """

    def build() -> Built:
        with _seeded(0):
            made = enliven(model().eval())
            args, kwargs = inputs()
            calibrate(made, args, kwargs)
        return made, args, kwargs

    return Entry(name, library, build)


def tensors(*args: Maker, **kwargs: Maker) -> Callable[[], Inputs]:
    """Inputs from one maker an argument."""
    return lambda: (tuple(make() for make in args), {name: make() for name, make in kwargs.items()})


def normal(*shape: int) -> Maker:
    """A maker of normal floats of ``shape``."""
    return lambda: torch.randn(shape)


def integers(high: int, *shape: int) -> Maker:
    """A maker of integers of ``shape``, from 1 (0 often means padding) to ``high - 1``."""
    return lambda: torch.randint(1, high, shape)


def enliven(model: nn.Module) -> nn.Module:
    """Give random weights the sizes of trained ones, in place, so that an error anywhere reaches the output.

    Gates that start at zero hide their branch, and query and key weights near zero make attention uniform: a wrong
    cut behind them would go unseen.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            _enliven_parameter(parameter)
        for module in model.modules():
            if isinstance(module, _NORMS) and module.weight is not None:
                module.weight.normal_(1.0, 0.1)
    return model


def calibrate(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Set the running statistics of every batch norm from one forward pass, in place.

    Without them a deep network swells or dies out, and its output no longer depends on its input.
    """
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(*args, **kwargs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        variance = cast(torch.Tensor, norm.running_var)
        variance.clamp_(min=0.1 * float(variance.mean()))
    model.train()  # models that keep values between calls in eval mode drop them here
    model.eval()


def _enliven_parameter(parameter: torch.Tensor) -> None:
    if not parameter.is_floating_point() or not parameter.numel():
        return
    if float(parameter.max() - parameter.min()) < 1e-3:
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    elif parameter.ndim > 1:
        fan_in = parameter.numel() / len(parameter)
        gain = float(parameter.std()) * fan_in**0.5
        parameter.mul_(min(max(gain, 1.0), 1.5) / gain)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
