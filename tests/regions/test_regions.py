"""Candidates, costs, look-up and text."""

import json

import pytest
import torch
from regions.architectures import captured
from torch import nn

from graphopt.cost import cost
from graphopt.cuts import Cut
from graphopt.errors import GraphoptError
from graphopt.regions import Branch, find_regions
from graphopt.tracing import capture


def test_candidates_leave_a_way_from_the_sample() -> None:
    regions = find_regions(captured("pixart")[2])
    total = cost(captured("pixart")[2]).macs
    best = regions.candidates[0]
    assert [str(cut) for cut in best.cuts] == [
        f"{regions.stacks[0].boundaries[0][0]}:{regions.stacks[0].boundaries[-1][0]}"
    ]
    assert best.macs_saved > regions.stacks[0].cost.macs
    assert 0.9 < best.macs_saved / total < 1
    values = {each.cuts[0].value for each in regions.candidates if each.kind == "post-dominator"}
    assert len(values) == len(regions.branches) == 36
    assert not values & {block.outputs[0] for block in regions.blocks}


def test_candidate_of_any_cuts() -> None:
    regions = find_regions(captured("pixart")[2])
    one, two = regions.branches[0], regions.branches[1]
    both = regions.candidate(Cut(one.ungated), Cut(two.ungated))
    parts = [regions.candidate(Cut(branch.ungated)) for branch in (one, two)]
    assert both.macs_saved == sum(part.macs_saved for part in parts)
    assert both.cache_bytes == sum(part.cache_bytes for part in parts) == 2 * 2 * 16 * 64 * 4
    assert both.seconds_saved is None
    with pytest.raises(GraphoptError, match="found no value 'add_9999'"):
        regions.candidate(Cut("add_9999"))


def test_costs_of_a_branch() -> None:
    mlp = find_regions(captured("pixart")[2]).branches[2]
    assert mlp.cost.macs == 2 * 16 * (64 * 256 + 256 * 64)
    assert mlp.cost.parameters == 64 * 256 + 256 + 256 * 64 + 64
    assert mlp.cost.bytes_out == 2 * 16 * 64 * 4
    assert mlp.cost.seconds is None


def test_measured_seconds() -> None:
    regions = find_regions(captured("dit")[2], measure=True)
    seconds = [branch.cost.seconds for branch in regions.branches]
    assert all(value is not None and value > 0 for value in seconds)
    assert (regions.stacks[0].cost.seconds or 0) >= sum(value or 0 for value in seconds)
    assert (regions.candidates[0].seconds_saved or 0) > 0


def test_programs_without_weights() -> None:
    with torch.device("meta"):
        model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True).eval()
        program = capture(model, (torch.randn(2, 4, 16),))
    assert [branch.kind for branch in find_regions(program).branches] == ["attention", "mlp"]
    with pytest.raises(GraphoptError, match="leave out measure=True"):
        find_regions(program, measure=True)


def test_look_up() -> None:
    regions = find_regions(captured("pixart")[2])
    found = regions.find("transformer_blocks.*.attn2")
    assert [region.id for region in found] == [f"branch.{number}" for number in range(1, 36, 3)]
    assert all(isinstance(region, Branch) for region in found)
    assert [region.id for region in regions.find("block.1?")] == ["block.10", "block.11"]
    assert regions.find("cut.0") == regions.candidates[:1]
    with pytest.raises(
        GraphoptError, match=r"no region that fits 'transformer_blocks.0.attn3'; nearest are transformer_b"
    ):
        regions.find("transformer_blocks.0.attn3")


def test_plain_data() -> None:
    regions = find_regions(captured("flux")[2])
    data = json.loads(json.dumps(regions.to_dict()))
    assert data["sample"] == "hidden_states"
    assert [block["id"] for block in data["blocks"]] == [f"block.{number}" for number in range(7)]
    assert data["stacks"][0]["boundaries"][0] == list(regions.stacks[0].boundaries[0])


def test_text() -> None:
    text = str(find_regions(captured("dit")[2]))
    assert text.splitlines()[0] == "regions seen from hidden_states"
    assert "stack.0 of 4 blocks" in text
    assert "branch.0 .. 6, 4 alike: attention" in text
