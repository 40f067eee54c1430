"""Real architectures on two devices: what they compute together is what one computes, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo.catalogue import entries

import graphopt
from passes.partition.resources import partition_of, roofline_file

QUICK = {"peer_failures": ["long_skip"], "transformers": ["wav2vec2", "siglip"], "torchvision": ["squeezenet1_1"]}
SLOW = {
    "transformers": ["albert", "mobilebert", "qwen2_moe", "bart", "t5_gated", "whisper"],
    "diffusers": ["unet_1d", "unet_2d_condition", "pixart", "sana", "unet_motion"],
    "timm": ["crossvit_9_240", "botnet26t_256"],
    "torchvision": ["resnet18", "swin", "densenet"],
    "peer_failures": ["siamese", "tokens_and_positions"],
}
MODELS = [
    *((library, name) for library, names in QUICK.items() for name in names),
    *(pytest.param(library, name, marks=pytest.mark.slow) for library, names in SLOW.items() for name in names),
]


@pytest.mark.parametrize(("library", "name"), MODELS)
def test_two_devices_compute_what_one_does(library: str, name: str, tmp_path: Path) -> None:
    model, args, kwargs = next(entry for entry in entries(library) if entry.name == name).build()
    costs = roofline_file(tmp_path)
    result = graphopt.optimize(model, args, kwargs, passes=f'partition{{devices=2,costs="{costs}"}}')
    partition = partition_of(result)
    assert {segment.device for segment in partition.phases["sync"].segments} == {0, 1}
    assert [note for note in result.report.passes[0].notes if "error 0.0e+00" in note]
