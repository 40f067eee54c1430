"""Reach, classes of inputs and what dies with a value."""

import pytest
import torch
from regions.architectures import captured
from torch import nn

from graphopt.canonical import eliminate_dead_code
from graphopt.copying import copy_graph
from graphopt.errors import GraphoptError
from graphopt.regions import depends_on, dying, find_regions, input_classes
from graphopt.tracing import capture


class Mixed(nn.Module):
    """Three inputs, a size that is read, and a write in place."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        scale = self.f(t).sigmoid()
        text = self.g(c).expand(x.shape[0], -1)
        z = torch.zeros_like(text)
        z[:, :2] = x[:, :2]
        return z * scale + text


def test_classes_of_inputs() -> None:
    program = capture(Mixed().eval(), (torch.randn(3, 4), torch.randn(3, 4), torch.randn(1, 4)))
    classes = {node.name: sorted(found) for node, found in input_classes(program).items()}
    assert classes["linear"] == classes["sigmoid"] == ["t"]
    assert classes["linear_1"] == classes["expand"] == ["c"]
    assert classes["mul"] == ["t", "x"]
    assert classes["output"] == ["c", "t", "x"]


def test_reach_agrees_with_classes() -> None:
    program = captured("pixart")[2]
    classes = input_classes(program)
    reached = depends_on(program, ["encoder_hidden_states"])
    assert reached == {node for node, found in classes.items() if "encoder_hidden_states" in found}
    assert 0 < len(reached) < len(classes)


@pytest.mark.parametrize("name", ["pixart", "flux", "unet_2d_condition"])
def test_what_dies_is_what_dead_code_elimination_removes(name: str) -> None:
    program = captured(name)[2]
    regions = find_regions(program)
    for cuts in [each.cuts for each in regions.candidates if each.kind != "residual"][::5]:
        copied = copy_graph(program.graph_module).assemble()
        nodes = {node.name: node for node in copied.graph.nodes}
        for cut in cuts:
            value = nodes[cut.value]
            with copied.graph.inserting_before(value):
                given = copied.graph.placeholder(f"cached_{cut.value}")
            value.replace_all_uses_with(given)
        eliminate_dead_code(copied)
        left = {node.name for node in copied.graph.nodes}
        gone = {node.name for node in dying(program, [cut.value for cut in cuts])}
        assert gone == set(nodes) - left


def test_unknown_names() -> None:
    program = captured("dit")[2]
    with pytest.raises(GraphoptError, match="found no value 'nowhere'"):
        dying(program, ["nowhere"])
    with pytest.raises(GraphoptError, match="pass sample= as one of hidden_states, timestep, class_labels"):
        find_regions(program, sample="latent")
