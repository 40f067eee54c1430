"""The trunk of a program, and the inputs that may be ignored by it."""

from __future__ import annotations

import pytest
import torch
from caching.tiny import control_of, images, skips, stack, stack_program, tokens
from torch import Tensor, nn

import graphopt
from graphopt.errors import PreconditionError
from graphopt.pass_manager import Pass
from graphopt.passes.caching.first_block import FirstBlock
from graphopt.passes.caching.trunk import context_inputs, find_trunk


@pytest.mark.parametrize("blocks", [3, 5])
def test_the_trunk_is_the_stack_of_blocks(blocks: int) -> None:
    trunk = find_trunk(FirstBlock(), stack_program(blocks), None)
    assert len(trunk.blocks) == blocks
    (cut,) = trunk.residual_cuts(0, blocks)
    assert (cut.base, cut.value) == ("linear_1", f"add_{2 * blocks - 1}")


def test_a_model_without_blocks_is_told_what_else_there_is() -> None:
    pass_: Pass = FirstBlock()
    plain = graphopt.capture(nn.Sequential(nn.Linear(4, 4), nn.Tanh()).eval(), (torch.randn(2, 4),))
    with pytest.raises(
        PreconditionError, match="first-block: found no stack of blocks in Sequential; deepcache caches"
    ):
        find_trunk(pass_, plain, None)


def test_text_and_timestep_steer_and_a_control_is_added() -> None:
    for model, inputs in ((stack(), tokens()), (skips(), images())):
        program = graphopt.capture(model, inputs, {"control": control_of(inputs)})
        assert context_inputs(program, "sample") == ("timestep", "text")


class Inputs(nn.Module):
    """Inputs that meet the sample in one way each."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Linear(4, 4)

    def forward(self, sample: Tensor, **others: Tensor) -> Tensor:
        hidden = sample + self.zero(others["through_a_layer"])
        hidden = hidden + others["broadcast"]
        hidden = hidden * others["scale"] + others["added_and_scaled"] * hidden + others["added_and_scaled"]
        hidden = torch.cat([hidden, others["joined"]], dim=-1)[..., :4]
        return hidden + others["row"][:, None] + others["number"]


def test_each_way_of_meeting_the_sample() -> None:
    full = (2, 3, 4)
    shapes = {"through_a_layer": full, "broadcast": (2, 1, 4), "scale": full, "added_and_scaled": full, "joined": full}
    others = {name: torch.randn(shape) for name, shape in shapes.items()}
    others |= {"row": torch.randn(2), "number": torch.tensor(3.0)}

    class Rows(Inputs):
        def forward(self, sample: Tensor, **others: Tensor) -> Tensor:
            return super().forward(sample, **{**others, "row": others["row"][:, None]})

    program = graphopt.capture(Rows().eval(), (torch.randn(full),), others)
    assert set(context_inputs(program, "sample")) == set(others) - {"through_a_layer"}
