"""Floats that a rewrite changes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.pass_manager.result import Result

SCALED = "prune-channels{ratio=0.5,importance=random,uniform_per_layer=true,compensate=scale}"


class Norm(nn.Module):
    """An RMS norm as models write it out."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.rand(width) + 0.5), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


class Normed(nn.Module):
    """Two norms and a number that is equal to none of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.slope = nn.Linear(12, 32), Norm(32, 0.1), 0.2
        self.last, self.head = nn.RMSNorm(32, eps=0.1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(nn.functional.leaky_relu(self.first(self.embed(x)), self.slope)))


def pruned(model: nn.Module, x: Tensor) -> Result:
    return graphopt.optimize(model, (x,), passes=SCALED, context=graphopt.PassContext(seed=0, verify=False))


def test_eps_is_repaired() -> None:
    torch.manual_seed(0)
    model, x = Normed().eval(), torch.randn(3, 12)
    result = pruned(model, x)
    restored = result.module(model)
    assert (restored.first.variance_epsilon, restored.last.eps, restored.slope) == pytest.approx((0.2, 0.2, 0.2))
    assert model.first.variance_epsilon == 0.1
    with torch.no_grad():
        torch.testing.assert_close(restored(x), result.program(x))
        restored.first.variance_epsilon = restored.last.eps = 0.1
        assert not torch.allclose(restored(x), result.program(x), rtol=1e-3)


def test_a_configuration_gets_the_eps_of_all_its_norms(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=17, num_hidden_layers=2, rms_norm_eps=0.05, use_cache=False)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    result = pruned(model, torch.randint(0, 17, (2, 9)))
    saved = result.save_pretrained(tmp_path / "small", model)
    assert (saved.form, saved.reason) == ("pretrained", "")
    loaded = type(model).from_pretrained(saved.path)
    assert loaded.config.rms_norm_eps == pytest.approx(0.1)
    assert loaded.model.norm.variance_epsilon == pytest.approx(0.1)
    assert config.rms_norm_eps == 0.05
