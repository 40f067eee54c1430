from typing import Any

import pytest
import torch
from scores.models import Context, Net, Tied, channels_of_net, group, images, member, program_of
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import PreconditionError, SpecError
from graphopt.program import Program
from graphopt.scores import IMPORTANCES, Scorer, below_share_of_highest, collect_gradients


@pytest.fixture(scope="module")
def program() -> Program:
    return program_of(Net(), images(1)[0])


def mean_square(output: Tensor, batch: Any) -> Tensor:
    return output.square().mean()


def test_gradients_are_collected_where_they_are_read(program: Program) -> None:
    context = Context(calibration=images(3), loss=mean_square)
    gradients = collect_gradients(program, context, squares=True)
    for name in IMPORTANCES:
        prepared = Scorer.prepare(program, context, name).score(channels_of_net())
        given = Scorer(program, name, gradients=gradients).score(channels_of_net())
        torch.testing.assert_close(prepared, given, rtol=0, atol=0)


def test_no_data_is_needed_where_none_is_read(program: Program) -> None:
    assert Scorer.prepare(program, Context(), "magnitude").score(channels_of_net()).shape == (6,)
    with pytest.raises(PreconditionError, match="gradients need a loss and found none"):
        Scorer.prepare(program, Context(), "taylor")
    with pytest.raises(PreconditionError, match="importance taylor needs gradients and found none"):
        Scorer(program, "taylor")


def test_the_stop_rule_is_passed_on(program: Program) -> None:
    batches = [images(1)[0], images(1)[0] * 1e-3]
    context = Context(calibration=batches, loss=lambda output, batch: output.square().mean() * batch.abs().max())
    stopped = Scorer.prepare(program, context, "taylor", stop=below_share_of_highest(0.05))
    first = Scorer.prepare(program, Context(calibration=batches[:1], loss=context.loss), "taylor")
    assert torch.equal(stopped.score(channels_of_net()), first.score(channels_of_net()))


def test_an_unknown_importance_is_an_error(program: Program) -> None:
    with pytest.raises(SpecError, match="found importance 'l3'; wanted one of magnitude, l1, bn-scale, random, taylor"):
        Scorer(program, "l3")


def test_a_group_of_buffers_is_not_scorable(program: Program) -> None:
    scorer = Scorer(program, "magnitude")
    statistics = group("statistics", 6, member("norm.running_mean", 0, 6))
    assert (scorer.scorable(channels_of_net()), scorer.scorable(statistics)) == (True, False)
    with pytest.raises(PreconditionError, match="group statistics lies on no floating-point parameter"):
        scorer.score(statistics)


def test_a_note_is_told_once(program: Program) -> None:
    scorer = Scorer(program, "bn-scale")
    classes = group("classes", 3, member("head.weight", 0, 3))
    scorer.score(classes)
    scorer.score(classes)
    assert scorer.notes == ("group classes has no weight of a normalisation: scored by l1 instead of bn-scale",)


def test_the_groups_of_a_program_are_scored(program: Program) -> None:
    graph = DependencyGraph(program)
    scorer = Scorer(program, "magnitude")
    (found,) = [scorer.score(own) for own in graph.groups]
    torch.testing.assert_close(found, scorer.score(channels_of_net()), rtol=0, atol=0)


def test_a_tied_weight_counts_once() -> None:
    tokens = torch.tensor([[0, 1, 2], [3, 0, 0]])
    model = Tied()
    scorer = Scorer(program_of(model, tokens), "magnitude")
    (hidden,) = DependencyGraph(program_of(model, tokens)).groups
    expected = model.embedding.weight.detach().double().square().sum(0)
    torch.testing.assert_close(scorer.score(hidden), expected)


def test_taylor_is_the_change_of_a_linear_loss() -> None:
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))
    x = torch.randn(8, 5)
    program = program_of(model, x)
    scorer = Scorer.prepare(program, Context(calibration=[x], loss=lambda output, batch: output.mean()), "taylor")
    rows = group("hidden", 4, member("0.weight", 0, 4))
    changes = []
    for unit in range(4):
        with torch.no_grad():
            masked = model[0].weight.clone()
            masked[unit] = 0
            changes.append((model(x).mean() - model[1](x @ masked.T).mean()).abs())
    torch.testing.assert_close(scorer.score(rows), torch.stack(changes).double(), rtol=1e-4, atol=1e-7)
