import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scores.models import Context, Net, Tied, images, program_of
from torch import Tensor, nn
from torch.nn import functional as F

from graphopt import PassContext, optimize
from graphopt.errors import PreconditionError
from graphopt.program import Program
from graphopt.scores import Batch, Gradients, below_share_of_highest, collect_gradients


@pytest.fixture(scope="module")
def program() -> Program:
    return program_of(Net(), images(1)[0])


def mean_square(output: Tensor, batch: Any) -> Tensor:
    return output.square().mean()


def collect_net(model: nn.Module, **options: Any) -> Gradients:
    program = program_of(model, images(1)[0])
    return collect_gradients(program, Context(calibration=images(3), loss=mean_square), **options)


def eager_gradients(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_()
    mean_square(copied(batch), batch).backward()
    return {name: parameter.grad for name, parameter in copied.named_parameters()}


def test_sums_are_those_of_the_model_in_inference_form() -> None:
    model = Net()
    found = collect_net(model)
    batches = [eager_gradients(model, batch) for batch in images(3)]
    assert set(found.sums) == {name for name, _ in model.named_parameters()}
    for name, value in found.sums.items():
        torch.testing.assert_close(value, sum(gradients[name] for gradients in batches))
    assert found.squares == {}
    assert found.unreached == ()
    torch.testing.assert_close(
        torch.tensor(found.losses), torch.stack([mean_square(model(batch), batch) for batch in images(3)])
    )


def test_squares_are_summed_over_batches_and_not_squared_sums() -> None:
    model = Net()
    found = collect_net(model, squares=True)
    batches = [eager_gradients(model, batch) for batch in images(3)]
    for name, value in found.squares.items():
        torch.testing.assert_close(value, sum(gradients[name].square() for gradients in batches))
    assert set(found.squares) == set(found.sums)


def test_nothing_of_the_model_changes() -> None:
    model = Net().eval()
    model.conv.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    program = program_of(model, images(1)[0])
    before = {name: (id(p), p.clone(), p.requires_grad) for name, p in program.graph_module.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in program.graph_module.named_buffers()}
    state = torch.get_rng_state()
    collect_gradients(program, Context(calibration=images(2), loss=mean_square, seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in program.graph_module.named_parameters():
        assert (id(parameter), parameter.requires_grad) == (before[name][0], before[name][2])
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in program.graph_module.named_buffers())
    assert model.conv.weight.grad is None
    assert torch.equal(model.head.weight.grad, torch.full_like(model.head.weight, 7.0))


def test_frozen_parameters_get_a_gradient_too() -> None:
    model = Net()
    free = collect_net(model)
    frozen = collect_net(copy.deepcopy(model).requires_grad_(False))
    assert all(torch.equal(free.sums[name], frozen.sums[name]) for name in free.sums)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_them_all_the_same(mode: Callable[[], Any], program: Program) -> None:
    batches = images(2)
    expected = collect_gradients(program, Context(calibration=batches, loss=mean_square))
    with mode():
        found = collect_gradients(program, Context(calibration=batches, loss=mean_square))
    assert all(torch.equal(found.sums[name], value) for name, value in expected.sums.items())


def test_the_seed_decides_what_a_random_loss_gives(program: Program) -> None:

    def noisy(output: Tensor, batch: Any) -> Tensor:
        return F.mse_loss(output, torch.randn_like(output))

    def collect(seed: int) -> Tensor:
        torch.rand(seed + 1)
        return collect_gradients(program, Context(calibration=images(2), loss=noisy, seed=seed)).sums["head.weight"]

    assert torch.equal(collect(1), collect(1))
    assert not torch.equal(collect(1), collect(2))


def test_tied_names_hold_one_sum_over_all_uses() -> None:
    model = Tied()
    tokens = torch.tensor([[0, 1, 2], [3, 0, 0]])
    found = collect_gradients(program_of(model, tokens), Context(calibration=[tokens], loss=mean_square))
    mean_square(model(tokens), tokens).backward()
    torch.testing.assert_close(found.sums["embedding.weight"], model.embedding.weight.grad)
    assert found.sums["embedding.weight"] is found.sums["head.weight"]


def test_the_loss_reads_the_target_of_a_batch() -> None:
    model = Net()
    labels = torch.tensor([0, 1, 2, 0])
    batch = Batch(args=(images(1)[0],), target=labels)
    context = Context(calibration=[batch], loss=lambda output, batch: F.cross_entropy(output, batch.target))
    found = collect_gradients(program_of(model, images(1)[0]), context)
    model.eval()
    F.cross_entropy(model(images(1)[0]), labels).backward()
    torch.testing.assert_close(found.sums["conv.weight"], model.conv.weight.grad)
    torch.testing.assert_close(found.losses[0], F.cross_entropy(model(images(1)[0]), labels).item())


def test_half_precision_is_summed_in_float32() -> None:
    model = Net().to(torch.bfloat16)
    batches = [batch.to(torch.bfloat16) for batch in images(2)]
    found = collect_gradients(program_of(model, batches[0]), Context(calibration=batches, loss=mean_square))
    assert {value.dtype for value in found.sums.values()} == {torch.float32}


def test_a_buffer_that_the_graph_writes_stays_as_it_was() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return self.linear(x) * self.calls

    program = program_of(Counting(), torch.randn(4, 3))
    before = program.parameters["calls"].clone()
    batch = torch.randn(4, 3)
    found = collect_gradients(program, Context(calibration=[batch, batch], loss=mean_square))
    assert torch.equal(program.parameters["calls"], before)
    assert found.losses[0] == found.losses[1]


def test_parameters_out_of_reach_are_named_and_zero() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(3, 2)
            self.other = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.used(x), self.other(x)

    program = program_of(Two(), torch.randn(4, 3))
    context = Context(calibration=[torch.randn(4, 3)], loss=lambda output, batch: output[0].square().mean())
    found = collect_gradients(program, context)
    assert found.unreached == ("other.weight", "other.bias")
    assert not found.sums["other.weight"].any()


def test_the_rule_of_diffusion_stops_before_the_first_low_loss(program: Program) -> None:
    scales = [1.0, 4.0, 3.0, 0.1, 5.0]
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))

    def scaled(output: Tensor, batch: Batch) -> Tensor:
        return batch.target * (output - target).square().mean()

    def collect(scales: list[float], stop: Any = None) -> Gradients:
        batches = [Batch(args=(images(1)[0],), target=scale) for scale in scales]
        return collect_gradients(program, Context(calibration=batches, loss=scaled), stop=stop)

    found = collect(scales, below_share_of_highest(0.05))
    expected = collect(scales[:3])
    assert found.losses == expected.losses
    assert all(torch.equal(found.sums[name], value) for name, value in expected.sums.items())
    assert len(collect(scales, below_share_of_highest(0.01)).losses) == 5


@pytest.mark.parametrize("threshold", [0, 1, -0.5, float("nan")])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(PreconditionError, match=r"wanted a share of the highest loss, in \(0, 1\)"):
        below_share_of_highest(threshold)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (None, "gradients need a loss and found none"),
        (lambda output, batch: output.sum().item(), "the loss of batch 0 is a float; wanted a tensor with one element"),
        (lambda output, batch: output, r"the loss of batch 0 is a tensor of shape \(4, 3\)"),
        (lambda output, batch: output.detach().sum(), "the loss of batch 0 is a constant"),
        (lambda output, batch: output.sum() * float("nan"), "the loss of batch 0 is nan; wanted a finite number"),
        (lambda output, batch: (output - output.detach()).square().mean(), "add noise to the target"),
        (lambda output, batch: output.sum() * 0, "gradient of the loss is zero for all 6 parameters over 2 batches"),
        (lambda output, batch: (output - output.detach()).abs().sqrt().sum(), "gradient of .* holds NaN or infinity"),
    ],
)
def test_a_loss_that_gives_no_gradient_is_an_error(loss: Any, message: str, program: Program) -> None:
    with pytest.raises(PreconditionError, match=message):
        collect_gradients(program, Context(calibration=images(2), loss=loss))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.ones(4, 5, 4, 4), "calibration batch 1 does not run: .*channels"),
        ((torch.ones(4, 2, 4, 4), torch.ones(4)), "calibration batch 1 does not run"),
        ({"images": torch.ones(4, 2, 4, 4)}, "calibration batch 1 does not run"),
        ([torch.ones(4, 2, 4, 4)], "a calibration batch is a list"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error(batch: Any, message: str, program: Program) -> None:
    with pytest.raises(PreconditionError, match=message):
        collect_gradients(program, Context(calibration=[images(1)[0], batch], loss=mean_square))


def test_no_batches_are_an_error(program: Program) -> None:
    with pytest.raises(PreconditionError, match="a gradient needs data and calibration is empty"):
        collect_gradients(program, Context(calibration=[], loss=mean_square))


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = Net()
    with torch.no_grad():
        model.norm.bias[2] = float("inf")
    program = program_of(model, images(1)[0])
    message = "parameter norm.bias holds NaN or infinity in 1 of 6 elements; wanted finite numbers"
    with pytest.raises(PreconditionError, match=message):
        collect_gradients(program, Context(calibration=images(1), loss=mean_square))


def test_weights_without_values_are_an_error() -> None:
    with torch.device("meta"):
        program = program_of(Net(), torch.empty(4, 2, 4, 4))
    with pytest.raises(PreconditionError, match=r"parameter conv.weight is on the meta device and has no values"):
        collect_gradients(program, Context(calibration=images(1), loss=mean_square))


@pytest.mark.gpu
def test_scores_on_a_gpu_are_those_of_the_cpu() -> None:
    def noisy(output: Tensor, batch: Any) -> Tensor:
        return F.mse_loss(output, torch.randn(output.shape).to(output))

    model = Net()
    expected = collect_gradients(program_of(model, images(1)[0]), Context(calibration=images(2), loss=noisy))
    batches = [batch.cuda() for batch in images(2)]
    program = program_of(copy.deepcopy(model).cuda(), batches[0])
    state = torch.cuda.get_rng_state()
    found = collect_gradients(program, Context(calibration=batches, loss=noisy))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for name, value in found.sums.items():
        torch.testing.assert_close(value.cpu(), expected.sums[name], rtol=1e-3, atol=1e-4)


class Waves(nn.Module):
    """Complex layers with a real one between."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6, dtype=torch.cfloat), nn.Linear(6, 2, dtype=torch.cfloat)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(torch.complex(x, 2 * x))
        return self.leave(torch.complex(x.real.relu(), x.imag.relu())).abs()


def test_gradients_of_complex_weights_are_pairs() -> None:
    torch.manual_seed(0)
    model, batch = Waves(), torch.randn(5, 4)
    found = collect_gradients(program_of(model, batch), Context(calibration=[batch], loss=mean_square)).sums
    for name, gradient in eager_gradients(model, batch).items():
        torch.testing.assert_close(found[name], torch.view_as_real(gradient))


@pytest.mark.parametrize("importance", ["magnitude", "l1", "taylor"])
def test_complex_layers_are_pruned(importance: str) -> None:
    torch.manual_seed(0)
    model, batch = Waves(), torch.randn(5, 4)
    with torch.no_grad():
        model.enter.weight[1::2] *= 1e-3j
        model.enter.bias[1::2] *= 1e-3
    context = PassContext(calibration=[batch], loss=mean_square)
    result = optimize(model, (batch,), passes=f"prune-channels{{ratio=0.5,importance={importance}}}", context=context)
    assert list(result.plan.kept.values()) == [(0, 2, 4)]
