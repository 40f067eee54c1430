import copy

import pytest
import torch
from torch import nn

from graphopt.program import Lineage, Program, first_difference
from graphopt.tracing import capture, recapture


class Block(nn.Module):
    def __init__(self, width: int = 6, *, swap: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(4, width)
        self.down = nn.Linear(width, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.ones(4), persistent=False)
        self.swap = swap

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            offset = x.mean(1, keepdim=True) * 2
        y = self.down(torch.relu(self.up(x)))
        y = self.norm(y) + x if self.swap else self.norm(y + x)
        return y * self.scale, offset


def block(width: int = 6, *, swap: bool = False) -> tuple[Block, Program]:
    model = Block(width, swap=swap)
    return model, capture(model, (torch.randn(2, 4),))


def test_nodes_enter_bodies_in_the_order_of_execution() -> None:
    _, program = block()
    calls = [str(node.target) for node in program.nodes() if node.op == "call_function"]
    assert calls == [
        "aten.mean.dim",
        "aten.mul.Tensor",
        "wrap_with_set_grad_enabled",
        "<built-in function getitem>",
        "aten.linear.default",
        "aten.relu.default",
        "aten.linear.default",
        "aten.add.Tensor",
        "aten.batch_norm.default",
        "aten.mul.Tensor",
    ]


def test_parameters_hold_buffers_and_constants() -> None:
    model, program = block()
    assert set(program.parameters) == set(model.state_dict()) | {"scale"}
    assert all(tensor.data_ptr() == program.parameters[name].data_ptr() for name, tensor in model.state_dict().items())


def test_module_is_ordinary_and_owns_its_tensors() -> None:
    model, program = block()
    module = program.module()
    x = torch.randn(5, 4)
    assert all(torch.equal(one, other) for one, other in zip(module(x), model.eval()(x), strict=True))
    assert list(module.state_dict()) == list(model.state_dict())
    shared = {tensor.data_ptr() for tensor in model.state_dict(keep_vars=True).values()}
    own = [*module.parameters(), *module.buffers()]
    assert shared.isdisjoint({tensor.data_ptr() for tensor in own})
    module.train()
    torch.optim.SGD(module.parameters(), 0.1).zero_grad()
    module(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    twin = copy.deepcopy(program.module())
    assert torch.equal(twin(x)[0], program(x)[0])
    assert twin.double()(x.double())[0].dtype is torch.float64
    assert program(x)[0].dtype is torch.float32


def test_training_the_module_trains_the_program() -> None:
    model, program = block()
    before = copy.deepcopy(model.state_dict())
    module = recapture(program.graph_module, program.args, program.kwargs, program).module()
    assert module.up.weight.data_ptr() != program.parameters["up.weight"].data_ptr()
    module, again = program.module(), program.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    x = torch.randn(3, 4)
    assert torch.equal(module(x)[0], program(x)[0])
    assert torch.equal(module(x)[0], again(x)[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_repr_is_short() -> None:
    _, program = block()
    assert len(repr(program)) < 80


def test_module_keeps_ties() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    module = capture(model, (torch.randn(2, 4),)).module()
    own = dict(module.named_parameters(remove_duplicate=False))
    assert own["0.weight"] is own["1.weight"]
    assert own["0.weight"].data_ptr() != model[0].weight.data_ptr()
    assert len(list(module.parameters())) == 3


def test_fingerprint_sees_structure_and_not_values() -> None:
    _, first = block()
    _, second = block()
    assert first.source == second.source
    assert first_difference(first, second) is None
    _, wider = block(7)
    assert wider.source.fingerprint != first.source.fingerprint
    assert first_difference(first, wider) == (
        "parameter down.weight: torch.float32 (4, 6) against parameter down.weight: torch.float32 (4, 7)"
    )
    _, swapped = block(swap=True)
    assert swapped.source.fingerprint != first.source.fingerprint
    assert first_difference(first, swapped) == (
        "operator %6 = aten.add.Tensor(%5, %0) against operator %6 = aten.batch_norm.default(%5, $norm.weight, "
        "$norm.bias, $norm.running_mean, $norm.running_var, False, 0.1, 1e-05, False)"
    )
    with torch.device("meta"):
        bare = Block()
    assert capture(bare, (torch.randn(2, 4),)).source == first.source


def test_programs_are_frozen_and_compare_by_identity() -> None:
    _, program = block()
    with pytest.raises(AttributeError):
        program.notes = ("changed",)
    lineage = Lineage(program, {"axis": (0, 2)})
    result = recapture(program.graph_module, program.args, program.kwargs, program, lineage=lineage)
    assert result.lineage is lineage
    assert result != program
    assert {program: 1}[program] == 1


def test_the_wider_example_leaves_what_keeps_its_rows() -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
            return self.linear(x) @ table.reshape(2, 4).T

    program = capture(Looked(), (torch.randn(2, 4), torch.randn(2, 2, 2)))
    wide = program.wider_example()
    assert [tuple(leaf.shape) for leaf in wide.leaves()] == [(4, 4), (2, 2, 2)]
    assert program(*wide.args).shape == (4, 2)
