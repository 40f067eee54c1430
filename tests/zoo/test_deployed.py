"""What a task reads of a model's outputs."""

from typing import Any

import torch
from torch import Tensor, nn
from zoo.deployed import CLASSES, deployed


class Named(nn.Module):
    """A model with whatever outputs a test wants."""

    def __init__(self, **outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Any:
        return self.outputs


def shapes(model: nn.Module) -> Any:
    x = torch.ones(2, 3)
    outputs = deployed(model, (x,), {})(x)
    return {
        name: tuple(out.shape) for name, out in (outputs.items() if isinstance(outputs, dict) else enumerate(outputs))
    }


def test_logits_are_taken_alone() -> None:
    assert shapes(Named(logits=torch.ones(2, 5), hidden_states=(torch.ones(2, 7, 9),))) == {"logits": (2, 5)}


def test_a_layer_reads_the_channels_of_hidden_states() -> None:
    assert shapes(Named(last_hidden_state=torch.ones(2, 7, 9))) == {0: (2, 7, CLASSES)}
    assert shapes(Named(last_hidden_state=torch.ones(2, 9, 4, 6))) == {0: (2, 4, 6, CLASSES)}
    maps = (torch.ones(2, 9, 4, 6), torch.ones(2, 5, 2, 3))
    assert shapes(Named(feature_maps=maps)) == {0: (2, 4, 6, CLASSES), 1: (2, 2, 3, CLASSES)}


def test_other_outputs_stay() -> None:
    assert shapes(Named(sample=torch.ones(2, 3))) == {"sample": (2, 3)}
