"""Models whose code asks what is in a tensor: captured with the example's answers, asked again at every call."""

from pathlib import Path

import pytest
import torch
from torch import nn
from traced_models import Flexible, line_of

import graphopt
from graphopt.errors import CaptureError, GraphoptError
from graphopt.tracing import capture, recapture

ONES = torch.ones(2, 6, dtype=torch.long)


def trimmed(self, x, mask):
    length = int(mask.sum(1).max())
    return self.linear(x[:, :length])


def rows_of(x, mask):
    chosen = x[mask.bool()]
    if len(chosen) != int(mask.sum()):
        raise ValueError("the mask holds more than zeros and ones")
    return chosen


def picked(self, x, mask):
    return self.linear(rows_of(x, mask))


def listed(self, x, mask):
    return self.linear(x) * sum(dict.fromkeys(mask.sum(1).tolist(), 1.0))


def branched(self, x, mask):
    y = self.linear(x)
    return y if bool(mask.all()) else y * mask[..., None]


def from_numpy(self, x, mask):
    return self.linear(x) * torch.from_numpy(mask.max(1, keepdim=True).values.numpy()).float().amax()


@pytest.mark.parametrize("function", [trimmed, picked, listed, branched, from_numpy])
@pytest.mark.parametrize("rows", [2, 5])
def test_the_program_is_the_model_where_the_data_decide_alike(function, rows: int) -> None:
    model = Flexible(function)
    program = capture(model, (torch.randn(2, 6, 4), ONES))
    assert program.dynamic_batch
    x, mask = torch.randn(rows, 6, 4), torch.ones(rows, 6, dtype=torch.long)
    assert torch.equal(program(x, mask), model(x, mask))
    assert torch.equal(program.module()(x, mask), model(x, mask))


@pytest.mark.parametrize("function", [trimmed, picked, listed, branched])
def test_inputs_that_decide_otherwise_are_refused_with_the_line(function) -> None:
    program = capture(Flexible(function), (torch.randn(2, 6, 4), ONES))
    shorter = torch.ones(2, 6, dtype=torch.long)
    shorter[:, 4:] = 0
    for call in (program, program.module()):
        with pytest.raises(GraphoptError, match=rf"data give .* at {__file__}:\d+: .*capture with inputs like these"):
            call(torch.randn(2, 6, 4), shorter)


def test_notes_name_line_and_answer() -> None:
    program = capture(Flexible(trimmed), (torch.randn(2, 6, 4), ONES))
    where = f"{__file__}:{line_of(trimmed, 'length = ')}: length = int(mask.sum(1).max())"
    text = f"the inputs' data decide at {where}: this holds where that gives 6; programs and modules raise an error "
    assert program.notes == (f"{text}elsewhere, files of other forms ask nothing",)
    assert program.notes[0] in str(program)


def test_numbers_of_rows_follow_the_batch() -> None:
    program = capture(Flexible(picked), (torch.randn(2, 6, 4), ONES))
    assert program.assumptions is not None
    assert [str(answer) for answer in program.assumptions.answers] == ["6 times the batch", "6 times the batch"]
    targets = {str(node.target) for node in program.nodes()}
    assert "aten.nonzero_static.default" in targets
    assert "aten.nonzero.default" not in targets


def test_what_follows_from_constants_is_no_question() -> None:
    def forward(self, x):
        return self.linear(x[:, : int(self.length)]) if bool(self.length > 0) else x

    model = Flexible(forward)
    model.register_buffer("length", torch.tensor(3))
    program = capture(model, (torch.randn(2, 6, 4),))
    assert program.dynamic_batch
    assert program.assumptions is None
    assert program.notes == ()
    x = torch.randn(5, 6, 4)
    assert torch.equal(program(x), model(x))


def test_an_answer_that_only_leads_to_a_warning_is_no_question() -> None:
    warned = []

    def forward(self, x, mask):
        if not bool(mask.all()):
            warned.append("padding")
        return self.linear(x)

    program = capture(Flexible(forward), (torch.randn(2, 6, 4), ONES))
    assert program.assumptions is None
    program(torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.long))


def test_rows_that_differ_are_asked_for_as_they_are() -> None:
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 3:] = 0
    model = Flexible(listed)
    program = capture(model, (torch.randn(2, 6, 4), mask))
    x = torch.randn(4, 6, 4)
    assert torch.equal(program(x, torch.cat([mask, mask])), model(x, torch.cat([mask, mask])))
    with pytest.raises(GraphoptError, match=r"give \[6, 3\]"):
        program(x, torch.ones(4, 6, dtype=torch.long))


def test_loops_over_the_batch_keep_it() -> None:
    def forward(self, x, mask):
        return torch.cat([self.linear(row[: int(length)]) for row, length in zip(x, mask.sum(1), strict=True)])

    model = Flexible(forward)
    program = capture(model, (torch.randn(2, 6, 4), ONES))
    assert not program.dynamic_batch
    assert program.notes[0].startswith("static batch: ")
    x = torch.randn(2, 6, 4)
    assert torch.equal(program(x, ONES), model(x, ONES))


def test_what_the_weights_decide_is_refused() -> None:
    def forward(self, x, mask):
        scores = self.linear(x).mean((1, 2))
        return x[scores.topk(1).indices] if bool(scores.max() > 0) else -x

    with pytest.raises(CaptureError, match="runs but cannot be captured as a graph"):
        capture(Flexible(forward), (torch.randn(2, 6, 4), ONES))


def test_chance_and_the_users_own_tensors_are_refused() -> None:
    def drawn(self, x):
        return self.linear(x) if bool(torch.rand(()) > 2) else self.linear(-x)

    def counted(self, x):
        self.count.add_(1)
        return self.linear(x) * float(self.count)

    def counted_out(self, x):
        torch.add(self.count, 1, out=self.count)
        return self.linear(x) * float(self.count)

    models = [Flexible(drawn), Flexible(counted), Flexible(counted_out)]
    for model in models:
        model.register_buffer("count", torch.zeros(()))
        with pytest.raises(CaptureError):
            capture(model, (torch.randn(2, 4),))
    assert [float(model.count) for model in models] == [0, 0, 0]


def test_no_answers_are_taken_unless_wanted() -> None:
    with pytest.raises(CaptureError, match="cannot be captured as a graph"):
        capture(Flexible(trimmed), (torch.randn(2, 6, 4), ONES), specialise=False)


def test_weights_inputs_and_random_numbers_are_left_as_they_were() -> None:
    def forward(self, x, mask):
        x.mul_(mask.sum())
        return trimmed(self, x, mask) + torch.randn(4)

    model, x = Flexible(forward), torch.randn(2, 6, 4)
    kept, weight = x.clone(), model.linear.weight.detach().clone()
    state = torch.get_rng_state()
    capture(model, (x, ONES))
    assert torch.equal(x, kept)
    assert torch.equal(model.linear.weight, weight)
    assert "_graphopt_run" not in vars(model.linear.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_weights_is_not_run() -> None:
    with torch.device("meta"):
        model = Flexible(trimmed)
    with pytest.raises(CaptureError):
        capture(model, (torch.randn(2, 6, 4), ONES))


def test_checks_of_what_weights_give_are_taken_to_hold() -> None:
    def checked(self, x):
        y = self.linear(x)
        assert not torch.isnan(y).any(), "no number"
        return y * 2

    model, x = Flexible(checked), torch.randn(5, 4)
    program = capture(model, (torch.randn(2, 4),))
    assert (program.assumptions, program.dynamic_batch) == (None, True)
    assert torch.equal(program(x), model(x))


def test_another_branch_that_fails_by_itself_is_no_check() -> None:
    def largest(self, x):
        y = self.linear(x)
        return y + y[y > 50].max() if bool((y > 50).any()) else y

    with pytest.raises(CaptureError):
        capture(Flexible(largest), (torch.randn(2, 4),))


def test_pruned_programs_ask_as_well() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(rows_of(x, mask))))

    torch.manual_seed(0)
    program = capture(Pair(), (torch.randn(2, 6, 4), ONES))
    result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(
        program, graphopt.PassContext(verify=False)
    )
    assert result.program.parameters["first.weight"].shape == (8, 4)
    assert graphopt.verify(program, result).checks
    assert result.program(torch.randn(3, 6, 4), torch.ones(3, 6, dtype=torch.long)).shape == (18, 3)
    with pytest.raises(GraphoptError, match="the inputs' data give"):
        result.program(torch.randn(2, 6, 4), ONES * torch.tensor([1, 1, 1, 1, 1, 0]))


def test_recapture_keeps_what_is_taken_for_granted() -> None:
    program = capture(Flexible(picked), (torch.randn(2, 6, 4), ONES))
    again = recapture(program.graph_module, program.args, program.kwargs, program)
    assert again.dynamic_batch
    x, mask = torch.randn(5, 6, 4), torch.ones(5, 6, dtype=torch.long)
    assert torch.equal(again(x, mask), program(x, mask))
    with pytest.raises(GraphoptError, match="the inputs' data give"):
        again(x, mask * 0)


def test_onnx_files_say_what_they_take_for_granted(tmp_path: Path) -> None:
    program = capture(Flexible(trimmed), (torch.randn(2, 6, 4), ONES))
    report = graphopt.export_onnx(program, tmp_path / "model.onnx")
    assert program.notes[0] in report.notes
