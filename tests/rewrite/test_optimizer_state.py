"""Training goes on with the sliced model and state as the masked original would go on."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import graphopt
from graphopt.errors import PlanError
from graphopt.plan import Plan
from graphopt.rewrite.optimizer_state import slice_optimizer

BATCH = 6
STEPS = 5


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.norm(self.conv(image)).relu().mean((2, 3))
        return self.head(hidden + self.down(self.up(hidden).tanh()))


Make = Callable[[Any], optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda params: optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda params: optim.Adam(params, lr=0.01),
    "adamw": lambda params: optim.AdamW(params, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adagrad": lambda params: optim.Adagrad(params, lr=0.02, lr_decay=0.01),
    "rmsprop": lambda params: optim.RMSprop(params, lr=0.01, momentum=0.5, centered=True),
    "foreach": lambda params: optim.Adam(params, lr=0.01, foreach=True, capturable=False),
    "radam": lambda params: optim.RAdam(params, lr=0.01),
}


def images(seed: int) -> Tensor:
    return torch.randn(BATCH, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def train(module: nn.Module, optimizer: optim.Optimizer, seed: int, masks: dict[str, Tensor] | None = None) -> None:
    target = torch.randn(BATCH, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    for step in range(STEPS):
        optimizer.zero_grad()
        (module(images(seed + step)) - target).square().mean().backward()
        for name, parameter in module.named_parameters() if masks else ():
            assert parameter.grad is not None
            parameter.grad *= masks[name]
        optimizer.step()


def kept_masks(plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    kept, masks = plan.parameters(), {}
    for name, parameter in model.named_parameters():
        mask = torch.ones_like(parameter)
        for dim, indices in kept.get(name, {}).items():
            along = torch.zeros(parameter.shape[dim], dtype=parameter.dtype)
            along[indices] = 1
            mask *= along.view(-1, *[1] * (parameter.ndim - dim - 1))
        masks[name] = mask
    return masks


def mask(model: nn.Module, optimizer: optim.Optimizer, masks: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data *= masks[name]
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value *= masks[name]


def trained(make: Make) -> tuple[Net, optim.Optimizer]:
    torch.manual_seed(0)
    model = Net().double()
    optimizer = make([{"params": [*model.conv.parameters(), *model.norm.parameters()]}, {"params": rest(model)}])
    train(model, optimizer, seed=0)
    return model, optimizer


def rest(model: Net) -> list[Tensor]:
    return [*model.up.parameters(), *model.down.parameters(), *model.head.parameters()]


def prune(model: nn.Module, passes: str = "prune-channels{ratio=0.5,axes=[hidden]}") -> graphopt.Result:
    return graphopt.optimize(model, (images(0),), passes=passes, context=graphopt.PassContext(verify=False))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_in_the_masked_original(name: str) -> None:
    model, optimizer = trained(OPTIMIZERS[name])
    result = prune(model)
    module = result.module()
    sliced = result.optimizer(optimizer, model, module)
    assert type(sliced) is type(optimizer)
    assert result.plan is not None
    masks = kept_masks(result.plan, model)
    assert not all(mask.all() for mask in masks.values())
    mask(model, optimizer, masks)
    train(model, optimizer, seed=10, masks=masks)
    train(module, sliced, seed=10)
    now = dict(module.named_parameters())
    for key, wanted in result.plan.slice_state_dict(dict(model.named_parameters())).items():
        assert now[key].shape == wanted.shape
        assert torch.allclose(now[key], wanted, rtol=0, atol=1e-6), key


def test_without_the_state_training_goes_another_way() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    module, anew = (result := prune(model)).module(), prune(model).module()
    train(module, result.optimizer(optimizer, model, module), seed=10)
    train(anew, optim.Adam(anew.parameters(), lr=0.01), seed=10)
    moved = [
        (one - other).abs().max().item() for one, other in zip(module.parameters(), anew.parameters(), strict=True)
    ]
    assert max(moved) > 1e-3


def test_groups_settings_and_the_old_optimizer_stay() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    optimizer.param_groups[1]["lr"] = 0.5
    before = copy.deepcopy(optimizer.state_dict())
    result = prune(model)
    module = result.module()
    sliced = result.optimizer(optimizer, model, module)
    assert [group["lr"] for group in sliced.param_groups] == [0.01, 0.5]
    held = {id(parameter) for group in sliced.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in module.parameters()}
    steps = {float(state["step"]) for state in sliced.state.values()}
    assert steps == {STEPS}
    train(module, sliced, seed=10)
    after = optimizer.state_dict()
    assert str(before) == str(after)
    optim.lr_scheduler.StepLR(sliced, step_size=1)


def test_parameters_of_bypassed_layers_leave_their_group() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x).relu())

    stack = nn.Sequential(*(Block() for _ in range(3)))
    optimizer = optim.Adam([{"params": block.parameters()} for block in stack])
    x = torch.randn(4, 8)
    stack(x).square().mean().backward()
    optimizer.step()
    result = graphopt.optimize(stack, (x,), passes="prune-layers{layers=[1]},prune-channels{ratio=0.5,axes=[hidden]}")
    module = result.module()
    sliced = result.optimizer(optimizer, stack, module)
    assert [len(group["params"]) for group in sliced.param_groups] == [4, 0, 4]
    assert len(sliced.state) == 8
    module(x).square().mean().backward()
    sliced.step()


def test_a_scheduler_on_the_old_optimizer_does_not_come_along() -> None:
    model, optimizer = trained(OPTIMIZERS["sgd"])
    optim.lr_scheduler.StepLR(optimizer, step_size=1)
    module = (result := prune(model)).module()
    sliced = result.optimizer(optimizer, model, module)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(module, sliced, seed=3)
    assert all(map(torch.equal, before, model.parameters()))


def test_factors_are_sliced_along_their_own_dimension() -> None:
    model, optimizer = trained(lambda params: optim.Adafactor(params, lr=0.01))
    result = prune(model)
    module = result.module()
    sliced = result.optimizer(optimizer, model, module)
    assert result.plan is not None
    rows = result.plan.parameters()["up.weight"][0]
    old, new = optimizer.state[model.up.weight], sliced.state[module.get_parameter("up.weight")]
    assert torch.equal(new["row_var"], old["row_var"][rows])
    assert torch.equal(new["col_var"], old["col_var"])
    train(module, sliced, seed=10)


class Named(optim.SGD):
    """Keeps tensors of other shapes than its parameters'."""

    def __init__(self, params: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(params, lr=0.01)
        self.shapes = shapes

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                for key, shape in self.shapes.items():
                    self.state[parameter].setdefault(key, torch.arange(float(torch.Size(shape).numel())).view(shape))


def named(shapes: dict[str, tuple[int, ...]]) -> tuple[graphopt.Result, nn.Module, Named]:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    optimizer = Named([model[0].weight], shapes)
    optimizer.step()
    result = graphopt.optimize(model, (torch.randn(2, 6),), passes="prune-channels{ratio=0.5}")
    return result, model, optimizer


def test_names_tell_rows_from_columns_of_a_square_matrix() -> None:
    result, model, optimizer = named({"exp_avg_sq_row": (6,), "exp_avg_sq_col": (6,), "momentum": (6, 6)})
    module = result.module()
    sliced = result.optimizer(optimizer, model, module)
    assert result.plan is not None
    rows = result.plan.parameters()["0.weight"][0]
    state = sliced.state[module.get_parameter("0.weight")]
    assert state["exp_avg_sq_row"].tolist() == [float(row) for row in rows]
    assert state["exp_avg_sq_col"].tolist() == [0, 1, 2, 3, 4, 5]
    assert state["momentum"].shape == (3, 6)
    assert sliced.shapes == optimizer.shapes


@pytest.mark.parametrize("shapes", [{"factor": (6,)}, {"blocks": (2, 3, 6)}, {"absmax": (5,)}], ids=str)
def test_state_of_unknown_shape_starts_anew_with_a_warning(shapes: dict[str, tuple[int, ...]]) -> None:
    result, model, optimizer = named(shapes)
    module = result.module()
    with pytest.warns(
        UserWarning, match=r"Named starts anew on 0\.weight: \w+ is \[.*\], which fits (no|more than one)"
    ):
        sliced = result.optimizer(optimizer, model, module)
    assert sliced.state[module.get_parameter("0.weight")] == {}


def test_what_does_not_belong_together_is_refused() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    result = prune(model)
    plan = result.plan
    assert plan is not None
    with pytest.raises(PlanError, match="that is none of the model's; pass the model whose parameters"):
        slice_optimizer(plan, optimizer, Net(), result.module())
    with pytest.raises(PlanError, match=r"up\.weight is \[12, 8\] in the module where the plan gives \[6, 8\]"):
        slice_optimizer(plan, optimizer, model, model)
    with pytest.raises(PlanError, match=r"the module has no parameter conv\.weight"):
        slice_optimizer(plan, optimizer, model, nn.Linear(2, 2))
    other = nn.Linear(5, 5)
    with pytest.raises(PlanError, match=r"weight of shape \[5, 5\] is no tensor of the Net that the plan was made for"):
        slice_optimizer(plan, optim.SGD(other.parameters()), other, other)


def test_one_state_for_all_parameters_is_refused() -> None:
    model, _ = trained(OPTIMIZERS["sgd"])
    optimizer = optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(images(0)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    result = prune(model)
    with pytest.raises(PlanError, match="LBFGS keeps d for all parameters together"):
        result.optimizer(optimizer, model, result.module())
