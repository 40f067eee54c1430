import torch

from graphopt.demo.model import DiT, DiTConfig

SMALL = DiTConfig(width=16, depth=2, heads=2, mlp_ratio=2)


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 1, 8, 8), torch.rand(batch), torch.arange(batch) % 11


def test_prediction_has_the_shape_of_the_images() -> None:
    config = DiTConfig(image_size=12, patch_size=3, channels=2, width=16, depth=1, heads=4, classes=3)
    output = DiT(config)(torch.randn(5, 2, 12, 12), torch.rand(5), torch.tensor([0, 1, 2, 3, 3]))
    assert output.shape == (5, 2, 12, 12)


def test_a_fresh_model_predicts_zero_and_its_blocks_pass_tokens_on() -> None:
    model = DiT(SMALL)
    assert torch.equal(model(*inputs(3)), torch.zeros(3, 1, 8, 8))
    tokens, condition = torch.randn(3, 16, 16), torch.randn(3, 16)
    assert torch.equal(model.blocks[0](tokens, condition), tokens)


def test_patches_return_to_their_place() -> None:
    model = DiT(SMALL)
    image = torch.arange(64.0).view(1, 1, 8, 8)
    patches = image.view(1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(1, 16, 4)
    assert torch.equal(model._unpatchify(patches), image)


def test_number_of_parameters_of_the_default() -> None:
    width, depth = 96, 4
    block = (3 + 1 + 4 + 4 + 6) * width**2 + (3 + 1 + 4 + 1 + 6) * width
    around = 5 * width + 16 * width + 2 * (width + 1) * width + 11 * width + 2 * (width + 1) * width + 4 * (width + 1)
    assert sum(parameter.numel() for parameter in DiT(DiTConfig()).parameters()) == depth * block + around
