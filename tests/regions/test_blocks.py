"""Boundaries of blocks are the outputs of the modules that a person would name."""

import pytest
import torch
import torchvision
import transformers
from regions.architectures import Captured, captured, outputs_of, u_vit, values_of
from zoo.catalogue import entries

from graphopt.errors import GraphoptError
from graphopt.regions import Regions, Stack, find_regions
from graphopt.tracing import capture


def same(values: list[torch.Tensor], outputs: list[torch.Tensor]) -> bool:
    """Tell whether values are the outputs in some order, up to their layout and the rounding of a fused kernel."""
    left = list(outputs)
    for value in values:
        match = next((output for output in left if alike(value, output)), None)
        if match is None:
            return False
        left = [output for output in left if output is not match]
    return not left


def alike(value: torch.Tensor, output: torch.Tensor) -> bool:
    if value.numel() != output.numel():
        return False
    return torch.allclose(value.flatten().sort().values, output.flatten().sort().values, atol=1e-5)


def assert_boundaries(case: Captured, stack: Stack, paths: list[str], joined: str = "") -> None:
    """Compare the boundaries after every block with the outputs of modules; streams of `joined` are one value."""
    values, outputs = values_of(case[2]), outputs_of(case, paths)
    assert len(stack.blocks) == len(paths)
    for boundary, found, path in zip(stack.boundaries[1:], outputs, paths, strict=True):
        wanted = [torch.cat(found, dim=1)] if joined and path.startswith(joined) else list(found)
        assert same([values[name] for name in boundary], wanted), f"{boundary} is not the output of {path}"


def trunk(case: Captured) -> Stack:
    return find_regions(case[2]).stacks[0]


def block_paths(name: str, count: int) -> list[str]:
    return [f"{name}.{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("pixart", block_paths("transformer_blocks", 12)),
        ("dit", block_paths("transformer_blocks", 4)),
        ("hunyuan_dit", block_paths("blocks", 6)),
        ("sana", block_paths("transformer_blocks", 2)),
        ("wan", block_paths("blocks", 2)),
        ("ltx_video", block_paths("transformer_blocks", 2)),
    ],
)
def test_single_stream(name: str, paths: list[str]) -> None:
    case = captured(name)
    assert_boundaries(case, trunk(case), paths)


def test_streams_side_by_side_then_joined() -> None:
    case = captured("flux")
    paths = block_paths("transformer_blocks", 3) + block_paths("single_transformer_blocks", 4)
    stack = trunk(case)
    assert_boundaries(case, stack, paths, joined="single")
    entering = outputs_of(case, ["x_embedder", "context_embedder"])
    values = values_of(case[2])
    assert same([values[name] for name in stack.boundaries[0]], [entering[0][0], entering[1][0]])


def test_last_block_that_drops_a_stream() -> None:
    case = captured("sd3")
    assert_boundaries(case, trunk(case), block_paths("transformer_blocks", 4))


def test_long_skips_in_a_row_of_equal_blocks() -> None:
    case = u_vit()
    regions = find_regions(case[2])
    assert_boundaries(case, regions.stacks[0], [*block_paths("first", 3), "middle", *block_paths("last", 3)])
    assert len(regions.skips) == 3
    assert len({block.key for block in regions.blocks}) == 2
    assert all(block.bypassable for block in regions.blocks)


def test_image_transformers() -> None:
    model = torchvision.models.VisionTransformer(16, 4, 3, 2, 32, 64, num_classes=5).eval()
    image = torch.randn(2, 3, 16, 16)
    case = (model, {"x": image}, capture(model, (image,)))
    assert_boundaries(case, trunk(case), [f"encoder.layers.encoder_layer_{number}" for number in range(3)])


def test_timm_vision_transformer() -> None:
    model, arguments, _ = next(entry for entry in entries("timm") if "vit" in entry.name).build()
    program = capture(model, arguments)
    stack = find_regions(program).stacks[0]
    assert len(stack.blocks) == len(model.get_submodule("blocks")._modules)
    assert {block.module for block in find_regions(program).blocks} == {f"blocks.{n}" for n in range(len(stack.blocks))}


def test_language_model() -> None:
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    inputs = {"input_ids": torch.arange(12).reshape(2, 6)}
    case = (model, inputs, capture(model, (), inputs))
    regions = find_regions(case[2])
    assert_boundaries(case, regions.stacks[0], block_paths("model.layers", 4))
    assert [branch.kind for branch in regions.branches] == ["attention", "mlp"] * 4


@pytest.mark.parametrize("name", ["unet_2d_condition", pytest.param("unet_spatio_temporal", marks=pytest.mark.slow)])
def test_stretches_between_long_skips(name: str) -> None:
    case = captured(name)
    regions = find_regions(case[2])
    values = values_of(case[2])
    ends = [values[name] for name in {output for block in regions.blocks for output in block.outputs}]
    model = case[0]
    paths = [
        f"{kind}.{n}" for kind in ("down_blocks", "up_blocks") for n in range(len(model.get_submodule(kind)._modules))
    ]
    layers = [path for block in [*paths, "mid_block"] for path in last_modules(model, block)]
    for path, output in zip(layers, outputs_of(case, layers), strict=True):
        assert any(same([end], [output[0]]) for end in ends), f"no block ends with the output of {path}"
    assert len(regions.blocks) == len(layers)


def last_modules(model: torch.nn.Module, block: str) -> list[str]:
    """Return the modules of a U-Net's block whose outputs are kept or handed on to the next layer."""
    module = model.get_submodule(block)
    if block == "mid_block":
        return [f"{block}.resnets.1"]
    count = len(module.get_submodule("resnets")._modules)
    kind = "attentions" if "attentions" in module._modules else "resnets"
    layers = [f"{block}.{kind}.{number}" for number in range(count)]
    if module._modules.get("downsamplers") is not None:
        return [*layers, f"{block}.downsamplers.0"]
    if module._modules.get("upsamplers") is not None:
        return [*layers[:-1], f"{block}.upsamplers.0"]
    return layers


def test_residual_networks() -> None:
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=5).eval()
    inputs = {"x": torch.randn(2, 3, 32, 32)}
    case = (model, inputs, capture(model, (inputs["x"],)))
    regions = find_regions(case[2])
    assert [branch.kind for branch in regions.branches] == ["convolution"] * 5
    values = values_of(case[2])
    paths = [f"layer{stage}.{number}" for stage in (1, 2, 3, 4) for number in (0, 1)]
    for block, path, output in zip(regions.blocks, paths, outputs_of(case, paths), strict=True):
        assert same([values[name] for name in block.outputs], list(output)), f"{block.outputs} is not {path}"


def residual(regions: Regions, first: int, last: int) -> list[str]:
    return [str(cut) for cut in regions.stacks[0].residual_cuts(first, last)]


def test_residual_cuts() -> None:
    flux = find_regions(captured("flux")[2])
    boundaries = flux.stacks[0].boundaries
    image, text = boundaries[1]
    assert residual(flux, 1, 3) == [f"{image}:{boundaries[3][0]}", f"{text}:{boundaries[3][1]}"]
    values = values_of(captured("flux")[2])
    (last,) = flux.stacks[0].residual_cuts(1, 7)
    assert (last.base, values[last.value].shape) == (image, values[image].shape)
    middle = flux.stacks[0].residual_cuts(1, 5)
    assert {cut.base for cut in middle} == {image, text}
    assert all(values[cut.value].shape == values[str(cut.base)].shape for cut in middle)
    sd3 = find_regions(captured("sd3")[2])
    first, final = sd3.stacks[0].boundaries[1], sd3.stacks[0].boundaries[-1]
    assert residual(sd3, 1, 4) == [f"{first[0]}:{final[0]}"]


def test_residual_cuts_need_equal_shapes() -> None:
    stack = find_regions(captured("unet_2d_condition")[2]).stacks[0]
    with pytest.raises(GraphoptError, match=r"wanted a value of shape \[2, 64, 4, 4\]"):
        stack.residual_cuts(0, 8)
    with pytest.raises(GraphoptError, match="wanted 0 <= first < last <= 24"):
        stack.residual_cuts(3, 25)


def test_bypassed_blocks_leave_the_rest() -> None:
    regions = find_regions(captured("pixart")[2])
    assert len({block.key for block in regions.blocks}) == 1
    assert sum(block.cost.macs for block in regions.blocks) == regions.stacks[0].cost.macs
    nodes = [name for block in regions.blocks for name in block.nodes]
    assert len(nodes) == len(set(nodes))
