"""The operator that runs a module that is kept whole."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from traced_models import Routed

from graphopt.opaque import opaque, opaque_gradients
from graphopt.parts import Part, Shell


def part(module: nn.Module, *args: object) -> Part:
    names = tuple([name for name, _ in module.named_parameters()])
    return Part(Shell("inner", module, "somebody wants it", names), pytree.tree_structure((args, {})), {})


@pytest.fixture
def routed() -> Routed:
    torch.manual_seed(0)
    return Routed()


def test_torch_finds_nothing_wrong(routed: Routed) -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    arguments = ([x], list(routed.parameters()), "inner")
    torch.library.opcheck(torch.ops.graphopt.opaque.default, arguments, {"serial": part(routed, x).serial})


def test_gradients_are_those_of_the_code(routed: Routed) -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    inputs = [x, *routed.parameters()]
    (result,) = opaque([x], inputs[1:], "inner", serial=part(routed, x).serial)
    assert torch.equal(result, routed(x))
    found = torch.autograd.grad(result.pow(2).sum(), inputs)
    wanted = torch.autograd.grad(routed(x).pow(2).sum(), inputs, materialize_grads=True)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert any(gradient.any() for gradient in found[3:])


def test_whole_numbers_have_no_gradients() -> None:
    class Picked(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            return x[index], index + 1

    x, index = torch.randn(4, requires_grad=True), torch.tensor([1, 1, 2])
    taken, _ = opaque([x, index], [], "inner", serial=part(Picked(), x, index).serial)
    taken.sum().backward()
    assert torch.equal(x.grad, torch.tensor([0.0, 2.0, 1.0, 0.0]))


def test_results_lie_in_memory_of_their_own() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            y = x + 1
            return [x, x[0], y, y]

    x = torch.randn(3, 4)
    results = opaque([x], [], "inner", serial=part(Same(), x).serial)
    assert [tuple(one.shape) for one in results] == [(3, 4), (4,), (3, 4), (3, 4)]
    assert len({one.untyped_storage()._cdata for one in (x, *results)}) == 5


def test_gradients_of_what_nobody_follows_are_zero() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(3)

    x = torch.randn(3)
    found = opaque_gradients([torch.ones(3)], [x], [], "inner", serial=part(Constant(), x).serial)
    assert torch.equal(found[0], torch.zeros(3))


def test_nobody_who_follows_operators_looks_inside(routed: Routed) -> None:
    seen = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, 5, 8)
    serial = part(routed, x).serial
    with Watching():
        torch.ops.graphopt.opaque([x], list(routed.parameters()), "inner", serial=serial)
    assert len(seen) == 1
