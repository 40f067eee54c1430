"""Importances against sums written out unit by unit."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from scores.models import Net, channels_of_net, group, images, member, program_of
from torch import Tensor

from graphopt.program import Program
from graphopt.scores import IMPORTANCES, Evidence, Gradients
from graphopt.scores.parameters import normalisation_weights, scored_parameters


@pytest.fixture(scope="module")
def program() -> Program:
    return program_of(Net(), images(1)[0])


@contextmanager
def changed(tensor: Tensor, change: Tensor) -> Iterator[None]:
    with torch.no_grad():
        before = tensor.clone()
        tensor += change
        yield
        tensor.copy_(before)


def evidence_of(program: Program, seed: int = 0) -> Evidence:
    tensors = scored_parameters(program)
    generator = torch.Generator().manual_seed(3)
    sums = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    squares = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    gradients = Gradients(sums, squares, (1.0,), ())
    return Evidence(tensors, gradients, norms=normalisation_weights(program), seed=seed)


def rows_of_channel(tensors: dict[str, Tensor], channel: int) -> list[Tensor]:
    """Every flat index that a channel takes, as the slice of its tensor there."""
    names = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    columns = tensors["head.weight"][:, 4 * channel : 4 * channel + 4]
    return [tensors[name][channel].double() for name in names] + list(columns.double().unbind(1))


def expected_scores(name: str, evidence: Evidence) -> list[float]:
    scores = []
    for channel in range(6):
        weights = rows_of_channel(dict(evidence.tensors), channel)
        gradients = rows_of_channel(dict(evidence.gradients.sums), channel)
        squares = rows_of_channel(dict(evidence.gradients.squares), channel)
        pairs = list(zip(weights, gradients, squares, strict=True))
        terms = {
            "magnitude": [(w * w).sum() for w, _, _ in pairs],
            "l1": [w.abs().sum() for w, _, _ in pairs],
            "bn-scale": [weights[2].abs()],
            "taylor": [(w * g).sum().abs() for w, g, _ in pairs],
            "taylor-element": [(w * g).abs().sum() for w, g, _ in pairs],
            "second-order": [(w * w * s).sum() for w, _, s in pairs],
        }
        scores.append(float(sum(terms[name])))
    return scores


@pytest.mark.parametrize("name", ["magnitude", "l1", "bn-scale", "taylor", "taylor-element", "second-order"])
def test_importance_is_the_sum_over_all_that_a_channel_takes(name: str, program: Program) -> None:
    evidence = evidence_of(program)
    found = IMPORTANCES[name].function(channels_of_net(), evidence)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected_scores(name, evidence), rel=1e-9)
    assert evidence.notes == []


def test_every_importance_of_the_table_is_checked() -> None:
    assert list(IMPORTANCES) == ["magnitude", "l1", "bn-scale", "random", "taylor", "taylor-element", "second-order"]
    assert [name for name, importance in IMPORTANCES.items() if importance.gradients] == [
        "taylor",
        "taylor-element",
        "second-order",
    ]
    assert [name for name, importance in IMPORTANCES.items() if importance.squares] == ["second-order"]


@pytest.mark.parametrize("name", list(IMPORTANCES))
def test_running_statistics_are_not_scored(name: str, program: Program) -> None:
    before = IMPORTANCES[name].function(channels_of_net(), evidence_of(program))
    with changed(program.graph_module.get_buffer("norm.running_mean"), torch.tensor(100.0)):
        after = IMPORTANCES[name].function(channels_of_net(), evidence_of(program))
    assert torch.equal(after, before)


@pytest.mark.parametrize("name", ["magnitude", "l1", "taylor", "taylor-element", "second-order"])
def test_parameters_of_normalisations_are_scored(name: str, program: Program) -> None:
    before = IMPORTANCES[name].function(channels_of_net(), evidence_of(program))
    third = torch.tensor([0.0, 0.0, 100.0, 0.0, 0.0, 0.0])
    with changed(program.graph_module.get_parameter("norm.bias"), third):
        after = IMPORTANCES[name].function(channels_of_net(), evidence_of(program))
    assert (after != before).tolist() == [False, False, True, False, False, False]


def test_weights_of_normalisations_are_found_on_the_graph() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 1), torch.nn.GroupNorm(2, 4), torch.nn.BatchNorm2d(4), torch.nn.Flatten(),
        torch.nn.LayerNorm(16), torch.nn.RMSNorm(16), torch.nn.LayerNorm(16, elementwise_affine=False),
    )  # fmt: skip
    program = program_of(model, torch.randn(3, 2, 2, 2))
    assert normalisation_weights(program) == {"1.weight", "2.weight", "4.weight", "5.weight"}


def test_a_group_without_normalisation_falls_back_to_l1_with_a_note(program: Program) -> None:
    evidence = evidence_of(program)
    classes = group("classes", 3, member("head.weight", 0, 3), member("head.bias", 0, 3))
    found = IMPORTANCES["bn-scale"].function(classes, evidence)
    assert torch.equal(found, IMPORTANCES["l1"].function(classes, evidence))
    assert evidence.notes == ["group classes has no weight of a normalisation: scored by l1 instead of bn-scale"]


def test_random_scores_depend_on_seed_and_group_alone(program: Program) -> None:
    score = IMPORTANCES["random"].function
    first = score(channels_of_net(), evidence_of(program, seed=1))
    other = group("other", 6, *channels_of_net().members)
    assert torch.equal(score(channels_of_net(), evidence_of(program, seed=1)), first)
    assert not torch.equal(score(channels_of_net(), evidence_of(program, seed=2)), first)
    assert not torch.equal(score(other, evidence_of(program, seed=1)), first)
    assert (float(first.min()) >= 0, float(first.max()) < 1) == (True, True)
