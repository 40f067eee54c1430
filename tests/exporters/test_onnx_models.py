"""Law 6 on small real architectures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from graphopt.exporters.onnx import export_onnx
from graphopt.tracing import capture

Case = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 5)

    def forward(self, tokens: torch.Tensor) -> dict[str, Any]:
        hidden, state = self.lstm(self.embedding(tokens))
        return {"logits": self.head(hidden), "state": state}


class Guided(nn.Module):
    """Has an input with two rows for each row of another, as classifier-free guidance has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        negative, positive = (self.layer(torch.cat([x, x])) + condition).chunk(2)
        return negative + 3 * (positive - negative)


def convolutions() -> Case:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return model, (torch.randn(2, 3, 8, 8),), {}


def recurrent() -> Case:
    return Recurrent(), (torch.randint(0, 20, (3, 6)),), {}


def llama() -> Case:
    """Grouped-query attention, rotary embedding, tied weights."""
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config), (), {"input_ids": torch.randint(0, 50, (2, 7)), "use_cache": False}


def t5() -> Case:
    """An encoder and a decoder, attention with a bias whose result lies transposed in memory."""
    config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    tokens = {"input_ids": torch.randint(0, 50, (2, 7)), "decoder_input_ids": torch.randint(0, 50, (2, 5))}
    return transformers.T5Model(config), (), {**tokens, "use_cache": False}


CASES: list[tuple[Callable[[], Case], tuple[str, ...], tuple[str, ...]]] = [
    (convolutions, ("input",), ("output",)),
    (recurrent, ("tokens",), ("logits", "state_0", "state_1")),
    (llama, ("input_ids",), ("logits",)),
    (t5, ("input_ids", "decoder_input_ids"), ("last_hidden_state", "encoder_last_hidden_state")),
]


@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm:UserWarning")
@pytest.mark.parametrize(("case", "inputs", "outputs"), CASES, ids=[case.__name__ for case, _, _ in CASES])
def test_onnx_runtime_equals_torch(
    case: Callable[[], Case], inputs: tuple[str, ...], outputs: tuple[str, ...], tmp_path: Path
) -> None:
    model, args, kwargs = case()
    report = export_onnx(capture(model.eval(), args, kwargs), tmp_path / "model.onnx")
    assert (report.inputs, report.outputs, report.opset) == (inputs, outputs, 20)
    assert len(report.batch_sizes) == 3
    assert max(error.relative for error in report.errors) < 1e-5


def test_an_input_with_two_rows_for_each_of_the_batch(tmp_path: Path) -> None:
    program = capture(Guided(), (torch.randn(2, 4), torch.randn(4, 4)))
    report = export_onnx(program, tmp_path / "model.onnx")
    assert report.dynamic_batch == program.dynamic_batch
    assert max(error.relative for error in report.errors) < 1e-5
