"""A model as it is deployed: what a task reads of its outputs.

Libraries return hidden states beside the logits, or hidden states alone, for the user to put a layer of his own behind.
An output keeps its width, and the residual stream is as wide as the hidden state: a model would keep half of its
parameters for the sake of an output that nobody reads.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = ("last_hidden_state", "pooler_output", "feature_maps")
"""Names of hidden states that a layer is put behind, the first there is."""

MAP_RANK = 4
"""Rank of a feature map, ``(batch, channels, height, width)``; other hidden states have their channels last."""

TASKS = ("logits", "pred_")
"""How the names of outputs begin that are a task's answer."""

CLASSES = 8
"""Width of the layer behind a hidden state."""


class Answers(nn.Module):
    """A model with its task's outputs alone."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        outputs = self.model(*args, **kwargs)
        return {name: outputs[name] for name in self.names}


class Headed(nn.Module):
    """A model with a linear layer on the channels of a hidden state, or of each feature map of several."""

    def __init__(self, model: nn.Module, name: str, widths: list[int]) -> None:
        super().__init__()
        self.model, self.name = model, name
        self.heads = nn.ModuleList(nn.Linear(width, CLASSES) for width in widths)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        states = _states(self.model(*args, **kwargs)[self.name])
        return tuple(head(_channels_last(state)) for head, state in zip(self.heads, states, strict=True))


def _states(value: object) -> tuple[Tensor, ...]:
    """A hidden state, or all of several; none where a value is something else."""
    found = (value,) if isinstance(value, Tensor) else value if isinstance(value, tuple | list) else ()
    return tuple(found) if all(isinstance(state, Tensor) for state in found) else ()


def _channels_last(state: Tensor) -> Tensor:
    return state.movedim(1, -1) if state.ndim == MAP_RANK else state


def deployed(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """The model with a task's answers for outputs; the model itself where its outputs have no names.

    Args:
        model: In evaluation form; it becomes part of the result.
        args: Positional arguments of one call.
        kwargs: Its named arguments.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = model(*args, **kwargs)
        if not isinstance(outputs, Mapping):
            return model
        answers = tuple(name for name, value in outputs.items() if name.startswith(TASKS) and torch.is_tensor(value))
        if answers:
            return model if len(answers) == len(outputs) else Answers(model, answers).eval()
        hidden = [name for name in HIDDEN if _states(outputs.get(name))]
        if not hidden:
            return model
        torch.manual_seed(0)
        widths = [_channels_last(state).shape[-1] for state in _states(outputs[hidden[0]])]
        return Headed(model, hidden[0], widths).eval()
