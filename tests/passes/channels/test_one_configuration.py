"""Under uniform_per_layer one configuration of the class makes a model of exactly the result's shapes."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from zoo.catalogue import entries

import graphopt

pytestmark = pytest.mark.slow

Shapes = Mapping[str, tuple[int, ...]]
Numbers = Callable[[Any, Shapes], dict[str, int]]


def gated(config: Any, shapes: Shapes) -> dict[str, int]:
    """Llama and its kin: a head size of its own, gated layers."""
    layer = "model.layers.1."
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "hidden_size": shapes["model.embed_tokens.weight"][1],
        "intermediate_size": shapes[f"{layer}mlp.gate_proj.weight"][0],
        "num_attention_heads": shapes[f"{layer}self_attn.q_proj.weight"][0] // size,
        "num_key_value_heads": shapes[f"{layer}self_attn.k_proj.weight"][0] // size,
        "head_dim": size,
    }


def bert(config: Any, shapes: Shapes) -> dict[str, int]:
    layer = "bert.encoder.layer.1."
    size = config.hidden_size // config.num_attention_heads
    return {
        "hidden_size": shapes["bert.embeddings.word_embeddings.weight"][1],
        "intermediate_size": shapes[f"{layer}intermediate.dense.weight"][0],
        "num_attention_heads": shapes[f"{layer}attention.self.query.weight"][0] // size,
    }


def gpt2(config: Any, shapes: Shapes) -> dict[str, int]:
    size = config.n_embd // config.n_head
    return {
        "n_embd": shapes["transformer.wte.weight"][1],
        "n_inner": shapes["transformer.h.1.mlp.c_fc.weight"][1],
        "n_head": shapes["transformer.h.1.attn.c_attn.weight"][1] // 3 // size,
    }


def bloom(config: Any, shapes: Shapes) -> dict[str, int]:
    """Its hidden width is four times the width by definition."""
    size = config.hidden_size // config.n_head
    return {
        "hidden_size": shapes["transformer.word_embeddings.weight"][1],
        "n_head": shapes["transformer.h.1.self_attention.query_key_value.weight"][0] // 3 // size,
    }


def t5(config: Any, shapes: Shapes) -> dict[str, int]:
    return {
        "d_ff": shapes["encoder.block.1.layer.1.DenseReluDense.wi.weight"][0],
        "num_heads": shapes["decoder.block.1.layer.1.EncDecAttention.q.weight"][0] // config.d_kv,
    }


@cache
def captured(library: str, name: str) -> tuple[torch.nn.Module, graphopt.Program]:
    built = next(entry for entry in entries(library) if entry.name == name).build()
    return built[0], graphopt.capture(*built)


@pytest.mark.parametrize(
    ("name", "numbers", "options"),
    [
        ("llama", gated, "ratio=0.3,uniform_per_layer"),
        ("llama", gated, "params=0.5,scope=global,max_ratio=0.8,uniform_per_layer"),
        ("llama", gated, "macs=0.7,scope=isomorphic,uniform_per_layer=own_head_size"),
        ("mistral", gated, "params=0.6,round_to=8,uniform_per_layer"),
        ("qwen2", gated, "macs=0.5,uniform_per_layer"),
        ("bert", bert, "ratio=0.3,uniform_per_layer"),
        ("bert", bert, "params=0.5,scope=global,max_ratio=0.8,uniform_per_layer"),
        ("gpt2", gpt2, "ratio=0.3,uniform_per_layer"),
        ("gpt2", gpt2, "params=0.5,scope=global,max_ratio=0.8,uniform_per_layer"),
        ("bloom", bloom, "ratio=0.3,uniform_per_layer"),
        ("t5", t5, "ratio=0.5,uniform_per_layer=own_head_size"),
    ],
)
def test_one_configuration_describes_the_result(name: str, numbers: Numbers, options: str) -> None:
    model, program = captured("transformers", name)
    context = graphopt.PassContext(verify=False)
    result = graphopt.Pipeline(f"prune-channels{{{options},importance=random}}").run(program, context)
    assert result.plan.axes
    shapes = {key: tuple(tensor.shape) for key, tensor in result.program.parameters.items()}
    config = deepcopy(model.config)
    for key, value in numbers(config, shapes).items():
        setattr(config, key, value)
    with torch.device("meta"):
        again = type(model)(config)
    made = {key: tuple(parameter.shape) for key, parameter in again.named_parameters()}
    assert made == {key: shapes[key] for key in made}
