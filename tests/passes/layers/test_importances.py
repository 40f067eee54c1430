"""Each importance against what its definition gives when written out on the user's model."""

from __future__ import annotations

import re

import pytest
import torch
from passes.layers.tiny import MODELS, normal
from torch import Tensor, nn

import graphopt
from graphopt.errors import PreconditionError
from graphopt.pass_manager import PassContext
from graphopt.passes.layers.scoring import IMPORTANCES
from graphopt.passes.layers.units import Units

BATCHES = [normal(4, 6, 5, seed=2), normal(4, 6, 5, seed=3)]


def loss(output: Tensor, batch: Tensor) -> Tensor:
    return (output.square().sum(-1) + output.sum(-1)).mean()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return MODELS["stack"]()[0]


def scored(model: nn.Module, importance: str, seed: int = 0) -> list[float]:
    program = graphopt.capture(model, (BATCHES[0],))
    context = PassContext(calibration=BATCHES, loss=loss, seed=seed)
    return IMPORTANCES[importance].score(program, Units(program).blocks, context)


def states(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What enters each branch, and what leaves the last."""
    found = [model.stem(x)]
    for branch in model.branches:
        found.append(branch(found[-1]))
    return found


def test_block_influence(model: nn.Module) -> None:
    wanted = []
    for index in range(4):
        pairs = [states(model, batch)[index : index + 2] for batch in BATCHES]
        cosines = torch.stack([torch.nn.functional.cosine_similarity(*pair, dim=-1) for pair in pairs])
        wanted.append(1 - float(cosines.mean()))
    assert scored(model, "bi") == pytest.approx(wanted, abs=1e-6)


def test_magnitude(model: nn.Module) -> None:
    wanted = [sum(float(p.abs().sum()) for p in branch.parameters()) for branch in model.branches]
    assert scored(model, "magnitude") == pytest.approx(wanted, rel=1e-5)


def test_taylor() -> None:
    model = MODELS["stack"]()[0].requires_grad_(True)
    sum(loss(model(batch), batch) for batch in BATCHES).backward()
    wanted = [abs(sum(float((p.grad * p.data).sum()) for p in b.parameters())) for b in model.branches]
    assert scored(MODELS["stack"]()[0], "taylor") == pytest.approx(wanted, rel=1e-4)


def test_output_loss(model: nn.Module) -> None:
    originals = [model(batch) for batch in BATCHES]
    norm = sum(float(output.square().sum()) for output in originals)
    wanted = []
    for index in range(4):
        other = MODELS["stack"]()[0]
        del other.branches[index]
        distance = sum(float((other(b) - o).square().sum()) for b, o in zip(BATCHES, originals, strict=True))
        wanted.append(distance / norm)
    assert scored(model, "output-loss") == pytest.approx(wanted, rel=1e-4)


def test_random_follows_the_seed(model: nn.Module) -> None:
    assert scored(model, "random", 1) == scored(model, "random", 1) != scored(model, "random", 2)


def test_features_of_convolutions_lie_along_dimension_one() -> None:
    model, args, kwargs = MODELS["resnet"]()
    program = graphopt.capture(model, args, kwargs)
    unit = next(unit for unit in Units(program).blocks if unit.id == "block.1")
    (score,) = IMPORTANCES["bi"].score(program, [unit], PassContext(calibration=[args]))
    before = model.layer1[0](model.maxpool(model.relu(model.bn1(model.conv1(args[0])))))
    after = model.layer1[1](before)
    assert score == pytest.approx(
        1 - float(torch.nn.functional.cosine_similarity(before, after, dim=1).mean()), abs=1e-5
    )


def test_the_report_says_how_additive_the_output_loss_is(model: nn.Module) -> None:
    context = PassContext(calibration=BATCHES, verify=False)
    result = graphopt.optimize(
        model, (BATCHES[0],), passes="prune-layers{count=2,importance=output-loss}", context=context
    )
    (line,) = [note for note in result.report.passes[0].notes if note.startswith("output-loss of all together")]
    joint, total = (float(number) for number in re.findall(r"[: ]([\d.]+e?-?\d*)[;,]", line))
    chosen = [int(one.id.partition(".")[2]) for one in result.plan.bypassed]
    singles = scored(model, "output-loss")
    assert total == pytest.approx(sum(singles[index] for index in chosen), rel=1e-3)
    wanted, found = model(BATCHES[0]), result.program(BATCHES[0])
    assert joint == pytest.approx(float((wanted - found).square().sum() / wanted.square().sum()), rel=0.5)


@pytest.mark.parametrize("importance", ["bi", "output-loss"])
def test_data_is_asked_for(model: nn.Module, importance: str) -> None:
    with pytest.raises(PreconditionError, match=f"importance {importance} needs data and found none"):
        graphopt.optimize(model, (BATCHES[0],), passes=f"prune-layers{{count=1,importance={importance}}}")


def test_a_batch_that_does_not_fit_is_named(model: nn.Module) -> None:
    context = PassContext(calibration=[BATCHES[0], torch.zeros(4, 6, 7)])
    with pytest.raises(PreconditionError, match="calibration batch 1 does not run"):
        graphopt.optimize(model, (BATCHES[0],), passes="prune-layers{count=1,importance=bi}", context=context)


def test_what_is_not_finite_is_refused() -> None:
    model = MODELS["stack"]()[0]
    with torch.no_grad():
        model.branches[1].up.weight[0, 0] = float("nan")
    for importance, message in (("magnitude", r"parameter branches\.1\.up\.weight holds NaN"), ("bi", "not finite")):
        with pytest.raises(PreconditionError, match=message):
            scored(model, importance)
