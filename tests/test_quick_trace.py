"""The trace by two runs: what it makes is what torch.export makes, and what it cannot do it leaves to torch.export."""

import inspect
import operator
from typing import Any

import pytest
import torch
from torch import fx, nn
from zoo.catalogue import entries

from graphopt import tracing
from graphopt.example_inputs import bind
from graphopt.program import Program
from graphopt.quick_trace import quick_capture
from graphopt.wiring import node_line, submodule_of

SAME = ("fused_qkv_unbind", "gqa_sdpa", "rope_rotate_half", "patch_merging", "channel_shuffle", "tied_embedding")


def operators(graph_module: fx.GraphModule, outer: dict[fx.Node, str] | None = None) -> list[str]:
    """One line an operator that gives tensors: wiring, constants, sizes as multiples of the batch, and what it gives.

    How a size is computed is left out: it is a number, and there is more than one way to it.
    """
    names = dict(outer or {})
    lines = []
    for node in graph_module.graph.nodes:
        value = node.meta.get("val")
        body = submodule_of(graph_module, node)
        if isinstance(value, torch.SymInt):
            names[node] = _size(value)
        elif node.op == "get_attr":
            names[node] = "body" if body is not None else f"${node.target}"
            lines += operators(body, {}) if body is not None else []
        elif node.op in ("call_function", "output"):
            operands = fx.map_arg((node.args, node.kwargs), lambda item: Named(names[item]))
            names[node] = f"%{len(lines)}"
            lines.append(f"{node.target}{operands} : {_type(value)}")
        else:
            names[node] = f"%{node.target}" if outer is None else f"input {len(names)}"
    return lines


class Named(str):
    """A name that is written without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _size(size: Any) -> str:
    if not isinstance(size, torch.SymInt):
        return str(size)
    expression = size.node.expr
    return str(expression.subs(dict.fromkeys(expression.free_symbols, "B")))


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}[{', '.join(map(_size, value.shape))}]"
    return f"({', '.join(map(_type, value))})" if isinstance(value, list | tuple) else str(value)


def both(model: nn.Module, args: Any, kwargs: Any = None) -> tuple[Program, Program]:
    inputs = bind(model, args, kwargs or {})
    quick = tracing._quickly(model, inputs)
    assert quick is not None
    return quick, tracing._exported(model, inputs, specialise=False, whole=False)


class Around(nn.Module):
    """Calls a function with itself and its inputs."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.table = torch.randn(6)
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def regions(self: Around, x: torch.Tensor) -> Any:
    with torch.no_grad():
        y = self.linear(x.contiguous()).relu_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = y @ self.linear.weight
        y = y + z + self.table
    with torch.autocast("cpu", enabled=False):
        y = y * 2
    z = torch.no_grad()(torch.sin)(y).sum(1)
    return y.transpose(0, 1), z


def line_of(text: str) -> int:
    lines, start = inspect.getsourcelines(regions)
    return start + next(place for place, line in enumerate(lines) if text in line)


def sizes(self: Around, x: torch.Tensor) -> Any:
    rows, width = x.shape
    y = self.linear(x).view(rows * 2, width // 2).reshape(-1, rows, 3) + torch.arange(rows)[:, None] / rows
    y[:, :, 0] = 3.0
    return {
        "out": y,
        "rows": rows,
        "zeros": torch.zeros_like(x).chunk(2, 1),
        "literal": y * torch.tensor([1.0, 2.0, 3.0]),
    }


def numbers(self: Around, x: torch.Tensor) -> torch.Tensor:
    scale = torch.tensor(2.0).sqrt()
    return self.linear(x) * scale.item() if scale.item() > 1 else x


@pytest.mark.parametrize("function", [regions, sizes, numbers])
def test_graphs_are_those_of_torch_export(function: Any) -> None:
    quick, exported = both(Around(function).eval(), (torch.randn(2, 6),))
    assert operators(quick.graph_module) == operators(exported.graph_module)
    assert quick.notes == exported.notes == ()
    assert (quick.dynamic_batch, exported.dynamic_batch) == (True, True)


@pytest.mark.parametrize("name", SAME)
def test_hand_written_models_come_out_the_same(name: str) -> None:
    model, args, kwargs = next(entry for entry in entries("peer_failures") if entry.name == name).build()
    quick, exported = both(model, args, kwargs)
    assert operators(quick.graph_module) == operators(exported.graph_module)
    assert set(quick.parameters) == set(exported.parameters)
    assert [node.target for node in quick.graph_module.graph.find_nodes(op="placeholder")] == [
        node.target for node in exported.graph_module.graph.find_nodes(op="placeholder")
    ]


@pytest.mark.parametrize("rows", [3, 4, 7])
@pytest.mark.parametrize("function", [regions, sizes, numbers])
def test_the_program_computes_what_the_model_does_at_any_batch(function: Any, rows: int) -> None:
    model = Around(function).eval()
    quick, _ = both(model, (torch.randn(2, 6),))
    x = torch.randn(2 * rows, 6)
    with torch.no_grad():
        found, wanted = torch.utils._pytree.tree_leaves([quick(x.clone()), model(x.clone())]), None
    half = len(found) // 2
    for one, other in zip(found[:half], found[half:], strict=True):
        wanted = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert wanted


def test_origins_name_modules_and_lines() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Around(regions)).eval()
    programs = both(model, (torch.randn(2, 6),))
    nodes = [next(node for node in program.nodes() if "aten.relu" in str(node.target)) for program in programs]
    stacks = [list(node.meta["nn_module_stack"].values()) for node in nodes]
    assert stacks[0] == stacks[1]
    assert stacks[0][-1] == ("1", f"{Around.__module__}.Around")
    assert node_line(nodes[0]) == f"{__file__}:{line_of('relu_()')}"


def test_a_model_that_raises_at_another_batch_keeps_the_example_s() -> None:
    model = Around(lambda self, x: self.linear(x).reshape(2, 6)).eval()
    x = torch.randn(2, 6)
    quick = quick_capture(model, bind(model, (x,), {}))
    assert quick is not None
    assert not quick.dynamic_batch
    assert quick.inputs.args[0] is x
    assert quick.notes[0].startswith("static batch: RuntimeError: shape '[2, 6]' is invalid")
    values = [node.meta["val"] for node in quick.traced.graph.nodes if node.op == "placeholder"]
    assert [tuple(value.shape) for value in values] == [(2, 6)]


def test_numbers_of_a_written_out_table_are_followed() -> None:
    def patterned(self: Around, x: torch.Tensor) -> torch.Tensor:
        sizes = torch.tensor([[2, 3], [1, 6]])
        high, wide = sizes[0]
        sizes_left = sizes.prod(1).tolist()
        return self.linear(x).reshape(-1, high.item(), wide.item()).flatten(1)[:, : sizes_left[1]] * int(sizes.max())

    model, x = Around(patterned).eval(), torch.randn(2, 6)
    quick = quick_capture(model, bind(model, (x,), {}))
    assert quick is not None
    assert quick.dynamic_batch


def test_numbers_of_plain_tensors_of_a_module_are_followed() -> None:
    model, x = Around(lambda self, x: self.linear(x) * self.table[0].item()).eval(), torch.randn(2, 6)
    program = tracing.capture(model, (x,))
    assert program.dynamic_batch
    torch.testing.assert_close(program(torch.cat([x, x])), model(torch.cat([x, x])))
    assert not any("item" in str(node.target) for node in program.nodes())


def test_numbers_that_are_overwritten_are_not_followed() -> None:
    def overwritten(self: Around, x: torch.Tensor) -> torch.Tensor:
        sizes = torch.tensor([2, 3])
        sizes[0] = 6
        return self.linear(x).reshape(-1, sizes[0].item())

    model = Around(overwritten).eval()
    assert quick_capture(model, bind(model, (torch.randn(2, 6),), {})) is None


REFUSED = {
    "a weight's number": lambda self, x: self.linear(x) * self.linear.bias[0].item(),
    "another graph at another batch": lambda self, x: self.linear(x) if len(x) == 2 else x,
    "a number that grows otherwise": lambda self, x: self.linear(x) * len(x) ** 0.5,
    "a size that grows otherwise": lambda self, x: torch.cat([self.linear(x), self.table[None]]),
    "sizes changed in place": lambda self, x: self.linear(x).unsqueeze_(0),
    "a loop over rows": lambda self, x: sum(self.linear(row) for row in x),
    "another structure at another batch": lambda self, x: {torch.Size([len(x)]): self.linear(x)},
    "an object": lambda self, x: (self.linear(x), operator),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_list_of_calls_does_not_hold_is_left_to_torch_export(name: str) -> None:
    model = Around(REFUSED[name]).eval()
    attributes = dict(vars(model))
    assert quick_capture(model, bind(model, (torch.randn(2, 6),), {})) is None
    assert dict(vars(model)) == attributes
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert type(torch.ones(2) + 1) is torch.Tensor


def test_a_buffer_that_is_replaced_is_left_to_torch_export() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = self.seen + 1
            return x + self.seen

    model = Counter().eval()
    before = model.seen
    assert quick_capture(model, bind(model, (torch.randn(2, 6),), {})) is None
    assert model.seen is before


def test_a_literal_with_a_row_for_each_of_the_batch_is_one_row() -> None:
    class Guided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + torch.tensor([[3.0, 4.0]] * x.shape[0]).repeat_interleave(3, 1)

    model = Guided().eval()
    program = tracing.capture(model, (torch.randn(2, 6),))
    assert program.dynamic_batch
    assert program.parameters["lifted_tensor_0"].shape == (1, 2)
    x = torch.randn(5, 6)
    assert torch.equal(program(x), model(x))
    again = tracing.recapture(program.graph_module, program.args, program.kwargs, program)
    assert again.dynamic_batch
    assert torch.equal(again(x), model(x))


def test_a_literal_that_changes_otherwise_with_the_batch_is_refused() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) / torch.tensor(float(x.shape[0]))

    model = Counted().eval()
    assert quick_capture(model, bind(model, (torch.randn(2, 6),), {})) is None


def test_objects_that_may_hold_tensors_are_refused() -> None:
    class Box:
        def __init__(self, held: torch.Tensor) -> None:
            self.held = held

        def __reduce__(self) -> str:
            return "Box"

    class Opened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor, box: Box) -> torch.Tensor:
            return self.linear(x) + box.held

    model = Opened().eval()
    assert quick_capture(model, bind(model, (torch.randn(2, 6), Box(torch.ones(6))), {})) is None


def test_checks_of_the_code_are_taken_to_hold() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._check_tensor_all(x > -100, lambda: "too small")
            return self.linear(x)

    model = Checked().eval()
    assert quick_capture(model, bind(model, (torch.randn(2, 6),), {})) is not None


def test_a_buffer_that_is_made_anew_at_every_call_is_no_state() -> None:
    class Anew(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(6))
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.table = torch.arange(6.0) * 2
            return self.linear(x) + self.table

    model = Anew().eval()
    program = tracing.capture(model, (torch.randn(2, 6),))
    x = torch.randn(3, 6)
    assert torch.equal(program(x), model(x))


def test_conjugates_have_a_batch() -> None:
    class Correlated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spectrum = torch.fft.rfft(self.linear(x))
            return torch.fft.irfft(spectrum * torch.conj(spectrum), n=6)

    model = Correlated().eval()
    quick = quick_capture(model, bind(model, (torch.randn(2, 6),), {}))
    assert quick is not None
    program = tracing.capture(model, (torch.randn(2, 6),))
    x = torch.randn(3, 6)
    assert torch.equal(program(x), model(x))
    assert tracing.recapture(program.graph_module, program.args, program.kwargs, program).dynamic_batch
