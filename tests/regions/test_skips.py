"""Long skips: all of a U-Net's, none where halves or streams are joined."""

import pytest
import torch
from regions.architectures import captured
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graphopt.canonical import eliminate_dead_code
from graphopt.copying import copy_graph
from graphopt.cost import cost
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.regions import find_regions
from graphopt.tracing import capture


def macs_left(program: Program, value: str) -> int:
    """Run what is left of a program once a value is an input, and count its products with torch's own counter."""
    module = copy_graph(program.graph_module).assemble()
    node = next(node for node in module.graph.nodes if node.name == value)
    shape = [int(size) if isinstance(size, int) else 2 for size in node.meta["val"].shape]
    with module.graph.inserting_before(node):
        given = module.graph.call_function(torch.ops.aten.zeros.default, (shape,))
    node.replace_all_uses_with(given)
    eliminate_dead_code(module)
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        fx.Interpreter(module).run(*leaves, enable_io_processing=False)
    return int(counter.get_total_flops()) // 2


def test_every_depth_of_a_unet_and_what_it_saves() -> None:
    program = captured("unet_2d_condition")[2]
    regions = find_regions(program)
    concats = [node.name for node in program.nodes() if str(node.target) == "aten.cat.default"]
    assert [skip.concat for skip in regions.skips] == concats[::-1][:12]
    saved = {each.cuts[0].value: each.macs_saved for each in regions.candidates if each.kind == "skip"}
    total = cost(program).macs
    assert len(saved) == 12
    for skip in regions.skips:
        assert total - saved[skip.main] == macs_left(program, skip.main), skip.id
    assert [saved[skip.main] for skip in regions.skips] == sorted(saved.values(), reverse=True)


@pytest.mark.parametrize(("name", "count"), [("unet_spatio_temporal", 6), ("unet_xl", 6), ("hunyuan_dit", 2)])
def test_counts(name: str, count: int) -> None:
    assert len(find_regions(captured(name)[2]).skips) == count


@pytest.mark.parametrize("name", ["flux", "sd3", "pixart", "aura_flow", "cogvideox", "lumina_next", "uvit"])
def test_no_false_skips(name: str) -> None:
    assert find_regions(captured(name)[2]).skips == ()


class Halves(nn.Module):
    """Rotary halves, gates, shifted halves and a deep value beside an unrelated one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.wide, self.out = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        q = self.q(x)
        first, second = q.chunk(2, dim=-1)
        q = q * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()
        value, gate = self.wide(q).chunk(2, dim=-1)
        joined = torch.cat([value * gate.sigmoid(), angle.expand_as(value)], dim=-1)
        return self.out(torch.cat([joined[..., 8:], joined[..., :8]], dim=-1))


def test_halves_are_no_skips() -> None:
    program = capture(Halves().eval(), (torch.randn(2, 4, 8), torch.randn(4, 8)))
    assert len([node for node in program.nodes() if str(node.target) == "aten.cat.default"]) == 3
    assert find_regions(program).skips == ()


class Controlled(nn.Module):
    """Skips that are added to and scaled on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid, self.up = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
        low = self.down(x)
        deep = self.mid(low.relu())
        return self.up(torch.cat([deep, low * 0.5 + control], dim=-1))


def test_skips_are_seen_through_what_is_added_to_them() -> None:
    program = capture(Controlled().eval(), (torch.randn(2, 4, 8), torch.randn(2, 4, 8)))
    (skip,) = find_regions(program).skips
    assert (skip.main, skip.skip) == ("linear_1", "add")
