from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from traced_models import Flexible, Net, line_of

import graphopt.tracing
from graphopt.errors import CaptureError
from graphopt.tracing import capture


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, mask=None, scale=1.0, negate=False, items=None, **rest):
        y = self.linear(x) * scale
        y = y if mask is None else y * mask
        y = y + items[0]["a"] if items else y
        y = y + rest["extra"] if "extra" in rest else y
        return {"out": (-y if negate else y, [y.sum(1)])}


def equal(left, right) -> bool:
    same_structure = pytree.tree_structure(left) == pytree.tree_structure(right)
    pairs = zip(pytree.tree_leaves(left), pytree.tree_leaves(right), strict=True)
    return same_structure and all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_output_equals_eager_bit_for_bit_at_other_batches(batch: int) -> None:
    model = Net()
    program = capture(model, (torch.randn(2, 3, 8, 8),))
    x = torch.randn(batch, 3, 8, 8)
    assert program.dynamic_batch
    assert program.notes == ()
    assert torch.equal(program(x), model.eval()(x))


def test_the_model_is_left_as_it_was() -> None:
    model = Net().train()
    model.bn.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    flags = {name: module.training for name, module in model.named_modules()}
    before = {
        name: (id(value), value._version, value.clone()) for name, value in model.state_dict(keep_vars=True).items()
    }
    program = capture(model, (torch.randn(2, 3, 8, 8),))
    program(*program.args).sum().backward()
    assert {name: module.training for name, module in model.named_modules()} == flags
    for name, value in model.state_dict(keep_vars=True).items():
        identity, version, numbers = before[name]
        assert (id(value), value._version) == (identity, version)
        assert torch.equal(value, numbers)
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.fc.weight.grad is None
    assert len(model._forward_hooks) + len(model._forward_pre_hooks) == 0


def test_what_forward_keeps_for_later_is_undone() -> None:
    def forward(self, x):
        self.calls += 1
        self.table[x.shape[1]] = x
        self.cache = torch.arange(4.0) if self.cache is None else self.cache
        return self.linear(x) + self.cache

    model = Flexible(forward)
    model.calls, model.cache, model.table = 0, None, {}
    program = capture(model, (torch.randn(2, 4),))
    assert (model.calls, model.cache, model.table) == (0, None, {})
    assert torch.equal(program(*program.args), model(*program.args))


def test_names_storage_and_flags_are_the_models() -> None:
    model = Net()
    program = capture(model, (torch.randn(2, 3, 8, 8),))
    graph_module = program.graph_module
    assert list(graph_module.state_dict()) == list(model.state_dict())
    own = dict(graph_module.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert own[name] is not parameter
        assert own[name].data_ptr() == parameter.data_ptr()
        assert own[name].requires_grad == parameter.requires_grad
    assert {"scale", "shift"} <= set(dict(graph_module.named_buffers()))
    assert not graph_module.training
    assert graph_module.train().training
    assert torch.equal(graph_module(*program.args), program(*program.args))


def test_tied_parameters_are_one_parameter() -> None:
    shared = nn.Linear(4, 4)
    model = Flexible(lambda self, x: self.a(self.b(x)), a=shared, b=shared)
    program = capture(model, (torch.randn(2, 4),))
    own = dict(program.graph_module.named_parameters(remove_duplicate=False))
    assert own["a.weight"] is own["b.weight"]
    assert own["linear.weight"] is not own["a.weight"]


def test_a_batch_of_one_is_widened() -> None:
    model = Net()
    program = capture(model, (torch.randn(1, 3, 8, 8),))
    assert program.dynamic_batch
    assert program.args[0].shape == (2, 3, 8, 8)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        assert torch.equal(program(x), model.eval()(x))


def test_a_batch_of_one_that_cannot_be_widened_stays_as_the_user_gave_it() -> None:
    model = Flexible(lambda self, x: self.linear(x).reshape(1, 2, 2))
    x = torch.randn(1, 4)
    program = capture(model, (x,))
    assert not program.dynamic_batch
    assert program.args[0] is x
    assert program.notes[0].startswith("static batch: RuntimeError: shape '[1, 2, 2]' is invalid")
    assert torch.equal(program(x), model(x))


def test_a_batch_that_the_model_fixes_is_static() -> None:
    model = Flexible(lambda self, x: self.linear(x).reshape(2, 2, 2))
    program = capture(model, (torch.randn(2, 4),))
    assert not program.dynamic_batch
    assert program.notes[0].startswith("static batch: RuntimeError: shape '[2, 2, 2]' is invalid for input of size 24")


def test_inputs_that_share_the_batch_by_chance_are_named() -> None:
    def forward(self, x, table):
        return self.linear(x) @ table.reshape(2, 4).T

    program = capture(Flexible(forward), (torch.randn(2, 4), torch.randn(2, 2, 2)))
    assert program.dynamic_batch
    assert program.notes == ("input 'args_1' keeps its 2 rows",)
    assert program(torch.randn(5, 4), torch.randn(2, 2, 2)).shape == (5, 2)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.randn(2, 4),), {}),
        ((torch.randn(2, 4), torch.randn(2, 4), 2.0, True), {}),
        ((torch.randn(2, 4), None), {"scale": 3, "items": [{"a": torch.randn(2, 4), "b": "text"}]}),
        ((), {"x": torch.randn(1, 4), "extra": torch.randn(1, 4)}),
        ((torch.randn(3, 4),), {"extra": torch.randn(3, 4), "mask": torch.ones(3, 1), "unused": 1}),
    ],
    ids=["plain", "positional", "nested", "one row in **kwargs", "order"],
)
def test_every_way_of_calling(args, kwargs) -> None:
    model = Optional()
    program = capture(model, args, kwargs)
    assert program.dynamic_batch
    assert equal(program(*program.args, **program.kwargs), model(*program.args, **program.kwargs))
    tripled = pytree.tree_map_only(
        torch.Tensor, lambda tensor: torch.cat([tensor] * 3), (program.args, dict(program.kwargs))
    )
    assert equal(program(*tripled[0], **tripled[1]), model(*tripled[0], **tripled[1]))


def test_registered_output_classes_come_back() -> None:
    class Output(OrderedDict):
        """A dict with a type, as model libraries return them."""

    pytree.register_pytree_node(
        Output,
        lambda output: (list(output.values()), list(output)),
        lambda values, keys: Output(zip(keys, values, strict=True)),
        serialized_type_name="test_tracing.Output",
    )
    model = Flexible(lambda self, x: Output(logits=self.linear(x), hidden=x))
    program = capture(model, (torch.randn(2, 4),))
    result = program(*program.args)
    assert type(result) is Output
    assert list(result) == ["logits", "hidden"]
    assert torch.equal(result["logits"], model.linear(program.args[0]))


def test_meta_models_are_captured_without_weights() -> None:
    with torch.device("meta"):
        model = Net()
    model.shift = torch.ones(5, device="meta")
    model.register_buffer("left_behind", torch.ones(5))
    program = capture(model, (torch.randn(2, 3, 8, 8),))
    assert program.args[0].device.type == "meta"
    assert {tensor.device.type for tensor in program.parameters.values()} == {"meta"}
    assert model.left_behind.device.type == "cpu"
    real = capture(Net(), (torch.randn(2, 3, 8, 8),))
    targets = [str(node.target) for node in program.nodes() if node.op == "call_function"]
    assert targets == [str(node.target) for node in real.nodes() if node.op == "call_function"]


def test_a_buffer_that_forward_writes_to_is_the_programs_own() -> None:
    def forward(self, x):
        self.bn.running_mean.add_(1)
        return self.bn(x)

    model = Flexible(forward, bn=nn.BatchNorm1d(4))
    program = capture(model, (torch.randn(2, 4),))
    program(*program.args)
    program(*program.args)
    assert torch.equal(model.bn.running_mean, torch.zeros(4))
    assert torch.equal(program.parameters["bn.running_mean"], torch.full((4,), 2.0))
    assert program.parameters["bn.running_var"].data_ptr() == model.bn.running_var.data_ptr()


def test_the_callers_inputs_bear_no_marks() -> None:
    x = torch.randn(2, 4)
    capture(Flexible(lambda self, x: self.linear(x).reshape(2, 2, 2)), (x,))
    with pytest.raises(CaptureError):
        capture(Flexible(lambda self, x: x if self.linear(x).sum() > 0 else -x), (x,))
    assert [name for name in vars(x) if "dynam" in name] == []


def test_errors_that_come_before_tracing() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(CaptureError, match=r"the model is a function, wanted an nn\.Module"):
        capture(lambda x: x, (x,))
    with pytest.raises(CaptureError, match=r"args is a Tensor, wanted a tuple .* pass \(x,\) for one"):
        capture(Optional(), x)
    with pytest.raises(CaptureError, match="kwargs is a list, wanted a mapping"):
        capture(Optional(), (x,), [x])
    with pytest.raises(CaptureError, match=r"missing a required argument: 'x'"):
        capture(Optional(), (), {"mask": x})
    with pytest.raises(CaptureError, match=r"Linear.forward takes \(input.*got an unexpected keyword argument 'extra'"):
        capture(nn.Linear(4, 4), (x,), {"extra": x})
    with pytest.raises(CaptureError, match=r"Flexible has \['graph'\], names that a graph module keeps for itself"):
        capture(Flexible(lambda self, x: self.graph(x), graph=nn.Linear(4, 4)), (x,))
    with pytest.raises(CaptureError, match=r"comes out of torch.compile.*capture model\._orig_mod"):
        capture(torch.compile(nn.Linear(4, 4)), (x,))


def test_a_model_that_raises_is_told_from_one_that_cannot_be_captured() -> None:
    def forward(self, x):
        raise KeyError("no such thing")

    with pytest.raises(CaptureError) as caught:
        capture(Flexible(forward), (torch.randn(2, 4),))
    where = f'({__file__}:{line_of(forward, "raise KeyError")}: raise KeyError("no such thing"))'
    assert str(caught.value) == (
        f"Flexible.forward raises on the example inputs: KeyError: 'no such thing' {where}; make the model run on "
        "these inputs, then capture again"
    )
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_branch_on_values_is_named_with_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    def forward(self, x):
        if self.linear(x).sum() > 0:
            return x
        return -x

    with pytest.raises(CaptureError) as caught:
        capture(Flexible(forward), (torch.randn(2, 4),))
    message = str(caught.value)
    assert "Flexible runs but cannot be captured as a graph: GuardOnDataDependentSymNode" in message
    assert f"({__file__}:{line_of(forward, 'if self.linear')}: if self.linear(x).sum() > 0:)" in message
    assert "torch.where" in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_packed_sequences_need_an_example(layer: type[nn.RNNBase]) -> None:
    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]

    model = Flexible(forward, layer=layer(4, 6, batch_first=True))
    with pytest.raises(CaptureError, match=r"given a packed sequence, .* specialise=True"):
        capture(model, (torch.randn(3, 5, 4), torch.tensor([5, 2, 4])), specialise=False)


class Sealed:
    """Is copied in a way of its own: nothing tells which tensors it holds."""

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __reduce__(self) -> tuple[object, ...]:
        return seal, (self.held,)


def seal(held: torch.Tensor) -> Sealed:
    return Sealed(held)


def test_classes_that_copying_cannot_take_apart_say_what_to_do() -> None:
    with pytest.raises(CaptureError, match=r"Sealed.*register the class with torch.export.register_dataclass"):
        capture(Flexible(lambda self, x: Sealed(self.linear(x))), (torch.randn(2, 4),))
    with pytest.raises(CaptureError, match=r"Sealed.*register the class with torch.export.register_dataclass"):
        capture(Flexible(lambda self, x: self.linear(x.held)), (Sealed(torch.randn(2, 4)),))


def test_no_module_bears_the_name_of_a_public_function() -> None:
    assert not hasattr(graphopt.tracing, "__path__")
    assert callable(graphopt.tracing.capture)
