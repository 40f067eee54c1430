"""The registries of the libraries: every family is in the zoo, is built by general rules, or says why it is not."""

import pytest
import torch
import transformers
from torch import nn
from zoo import registry, registry_timm, registry_transformers
from zoo.attempt import Attempt
from zoo.catalogue import Built, Entry, entries, normal, tensors
from zoo.shrinking import halved, shrunk


def run(built: Built) -> None:
    model, args, kwargs = built
    with torch.no_grad():
        model(*args, **kwargs)


@pytest.mark.parametrize("library", registry.REGISTRIES)
def test_every_family_is_covered_or_has_an_entry(library: str) -> None:
    families = registry.families(library)
    automatic = [entry.name.removeprefix("auto:") for entry in registry.entries(library)]
    assert len(families) > 20
    assert registry.covered(library) <= set(families)
    assert sorted({*automatic, *registry.covered(library)}) == sorted(families)
    assert len(automatic) + len(registry.covered(library)) == len(families)


def test_a_family_of_timm_is_a_line_of_names_in_a_file() -> None:
    assert registry_timm.family("gernet_s") == "byobnet/gernet"
    assert registry_timm.family("tf_efficientnetv2_b0") == "efficientnet/efficientnetv2"
    assert registry_timm.family("test_resnet") == "resnet/resnet"
    assert {"byobnet/gernet", "byobnet/repvgg", "metaformer/caformer"} <= registry.covered("timm")


@pytest.mark.parametrize(
    ("library", "family"),
    [
        ("timm", "cspnext/cspnext"),
        ("timm", "resnet/seresnext"),
        ("transformers", "arcee"),
        ("transformers", "aya_vision"),
        ("torchvision", "quantization.shufflenetv2"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_general_rules_build_families_that_nobody_shrank(library: str, family: str) -> None:
    built = registry.build(library, family)
    assert sum(parameter.numel() for parameter in built[0].parameters()) < registry.SMALL
    run(built)


def test_a_family_that_counts_on_the_resolution_of_its_training_gets_it() -> None:
    model, args, _ = registry.build("timm", "byoanet/sehalonet")
    assert args[0].shape == (2, 3, 256, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) < registry.SMALL


def test_no_model_of_transformers_returns_a_cache() -> None:
    config = registry_transformers.small_config(transformers.ColPaliConfig(), lambda name: True)
    assert transformers.ColPaliConfig().vlm_config.text_config.use_cache
    assert not config.vlm_config.text_config.use_cache


def test_a_family_that_no_rule_builds_says_why() -> None:
    with pytest.raises(registry.NotBuiltError, match="natten"):
        registry.build("transformers", "dinat")


def test_the_attempt_that_is_mended_is_tried_last() -> None:
    right = Attempt(lambda: nn.Linear(4, 4), tensors(normal(2, 4)))
    wrong = Attempt(
        lambda: nn.Linear(4, 4), tensors(normal(2, 3)), lambda reason: right if "shapes" in reason else None
    )
    assert registry.first([wrong]) is right
    assert "mat1" in str(registry.first([Attempt(wrong.model, wrong.inputs)]))


def test_widths_come_down_together() -> None:
    assert halved([64, 128, 256]) == [16, 32, 64]
    assert halved([96, 192, 384]) == [24, 48, 96]
    assert halved([48, 100]) == [24, 50]


def test_options_come_down_by_their_names() -> None:
    options = {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "layer_types": ["a"] * 30 + ["b", "a"],
        "rms_norm_eps": 1e-6,
        "image_token_id": 151655,
        "in_chans": 3,
    }
    small = shrunk(options)
    assert small == options | {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "layer_types": ["a", "b"],
        "image_token_id": 127,
    }
    assert shrunk(options, only=lambda name: "layers" in name)["hidden_size"] == 4096


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", registry.REGISTRIES)
def test_every_family_is_built_or_says_why(library: str) -> None:
    unbuilt = registry.unbuilt(library)
    assert all(reason for reason in unbuilt.values())
    in_zoo = set(registry.families(library)) - set(unbuilt)
    assert len(in_zoo) >= {"torchvision": 25, "timm": 120, "transformers": 300, "diffusers": 80}[library]


def test_entries_of_the_registry_are_not_built_when_listed() -> None:
    listed = registry.entries("timm")
    assert all(isinstance(entry, Entry) for entry in listed)
    assert not {entry.name for entry in listed} & {entry.name for entry in entries("timm")}
