from collections.abc import Callable

import torch
from torch import nn

from graphopt.tracing import capture


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.head.bias.data.zero_()

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.bn(self.conv(image))).mean((2, 3))
        return {"logits": self.head(features), "features": features}


class Attention(nn.Module):
    """Tied weights, a split, a body, a symbolic size inside the graph, types other than float32."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8, dtype=torch.bfloat16)
        self.qkv = nn.Linear(8, 24, dtype=torch.bfloat16)
        self.head = nn.Linear(8, 10, bias=False, dtype=torch.bfloat16)
        self.head.weight = self.embed.weight

    def forward(self, tokens, mask=None, items=None):
        with torch.no_grad():
            positions = torch.arange(tokens.shape[1], dtype=torch.float32)
        q, k, v = self.qkv(self.embed(tokens)).view(tokens.shape[0], -1, 6, 4).transpose(1, 2).chunk(3, 1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (self.head(y.transpose(1, 2).flatten(2)), [positions]), items["x"].long() * tokens.shape[0]


def test_convolutions(golden: Callable[[str, str], None]) -> None:
    golden("printer_convolutions.txt", str(capture(Classifier(), (torch.randn(1, 3, 8, 8),))))


def test_attention(golden: Callable[[str, str], None]) -> None:
    inputs = {"items": {"x": torch.randn(3)}, "mask": torch.ones(6, 6, dtype=torch.bool)}
    golden("printer_attention.txt", str(capture(Attention(), (torch.zeros(3, 6, dtype=torch.long),), inputs)))


def test_static_batch_is_noted(golden: Callable[[str, str], None]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(0, (1, 2)))
    text = str(capture(model, (torch.randn(2, 4),)))
    golden("printer_static_batch.txt", text)


def test_text_does_not_depend_on_weights_or_on_a_second_capture() -> None:
    first, second = (str(capture(Classifier(), (torch.randn(2, 3, 8, 8),))) for _ in range(2))
    assert first == second
