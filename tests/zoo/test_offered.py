"""What a person would prune, and what of it is offered."""

import torch
from torch import Tensor, nn
from zoo.offered import count_offer

import graphopt


def test_an_axis_of_an_output_counts_as_an_end_whatever_else_is_said_of_it() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            """``x: (batch, 4)``."""
            logits = self.last(self.first(x))
            return logits.softmax(-1), logits

    model = Classifier()
    offer = count_offer(model, graphopt.capture(model, (torch.randn(2, 4),)))
    assert (offer.wanted, offer.offered, dict(offer.reasons)) == (6 * 4 + 6 * 5, 6 * 4 + 6 * 5, {})


def test_an_axis_that_an_operator_freezes_is_missed() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            """``x: (batch, 4)``."""
            out: Tensor = self.last(self.first(x).softmax(-1))
            return out

    model = Gated()
    offer = count_offer(model, graphopt.capture(model, (torch.randn(2, 4),)))
    assert (offer.wanted, offer.offered) == (6 * 4 + 6 * 5, 0)
    assert [reason.partition(" by ")[0] for reason in offer.reasons] == ["a softmax runs over it"]
