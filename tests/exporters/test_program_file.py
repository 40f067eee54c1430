import json
import math
import operator
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exporters.results import Small, inputs
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from zoo.catalogue import Entry, entries

import graphopt
from graphopt.assembly import Attribute, assemble
from graphopt.copying import copy_graph
from graphopt.example_inputs import ExampleInputs
from graphopt.exporters.graph_arguments import decoded, encoded
from graphopt.exporters.program_file import graph_from_dict, graph_to_dict, tensor_specs
from graphopt.kernels import find_kernel
from graphopt.printer import render
from graphopt.program import Program
from graphopt.values import refresh_values

aten = torch.ops.aten

ALWAYS = {
    "peer_failures": slice(0, None, 20),
    "torchvision": slice(1, None, 40),
    "timm": slice(3, None, 90),
    "transformers": slice(2, None, 90),
    "diffusers": slice(1, None, 30),
}
"""Entries of each library that run always; the others run with the slow tests."""


class Shaped(nn.Module):
    """Sizes, casts, slices, an infinite constant, a literal and two inputs whose batches differ by a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 6))
        self.register_buffer("scale", torch.rand(6), persistent=False)

    def forward(self, x: Tensor, pair: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows = x.shape[0]
        both = torch.cat([x, x * 2]) + pair
        masked = both.masked_fill(both > 0.5, float("-inf")).softmax(-1)
        wide = masked.to(torch.float64).view(2, rows, 4)[:, :, 1:3].sum(0)
        return masked @ self.table * self.scale, [wide.to(x.dtype) * rows, torch.tensor([1.0, 2.0]) + wide.mean()]


class Branched(nn.Module):
    """A higher-order operator with two bodies, one of which reads what the other does not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: self.linear(y).sin(), lambda y: y.cos(), (x,))


class Frozen(nn.Module):
    """Switches gradients off inside, which the graph keeps as an operator with a body."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self.linear(x).abs().mean()
        return self.linear(x) / scale


def shaped() -> Program:
    return graphopt.capture(Shaped(), (torch.randn(2, 4), torch.randn(4, 4)))


def small() -> Program:
    args, kwargs = inputs()
    return graphopt.capture(Small(), args, kwargs)


def branched() -> Program:
    return graphopt.capture(Branched(), (torch.randn(3, 4),))


def frozen() -> Program:
    return graphopt.capture(Frozen(), (torch.randn(3, 4),))


def again(graph_module: fx.GraphModule, tensors: dict[str, Tensor]) -> fx.GraphModule:
    """The graph through the text of a file."""
    return graph_from_dict(json.loads(json.dumps(graph_to_dict(graph_module), allow_nan=False)), tensors)


def text_of(graph_module: fx.GraphModule) -> str:
    """Inputs, tensors that are read, and operators; the user's own nesting of the outputs is not in a file."""
    copied = copy_graph(graph_module)
    read = {node.target for node in copied.graph.nodes if node.op == "get_attr"}
    held = {name: attribute for name, attribute in copied.attributes.items() if name in read}
    return render(assemble(copied.graph, held, copied.class_name), "").partition("\noutputs")[0]


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    """Flat outputs on copies of the inputs."""
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
    with torch.no_grad():
        return pytree.tree_leaves(function(*args, **kwargs))


def require_same(program: Program, loaded: fx.GraphModule) -> None:
    """Equal text, equal files, and bit-equal outputs at the example's batch and at another one."""
    example = ExampleInputs(program.args, dict(program.kwargs))
    batches = [example]
    if program.dynamic_batch:
        rows = max(leaf.shape[0] for leaf in example.leaves() if isinstance(leaf, Tensor) and leaf.ndim)
        batches.append(example.map_tensors(lambda leaf: doubled(leaf, rows)))
    for batch in batches:
        wanted = run(program, *batch.args, **batch.kwargs)
        found = run(loaded, *batch.leaves())
        for one, other in zip(wanted, found, strict=True):
            assert type(one) is type(other)
            assert same(one, other)
    assert graph_to_dict(loaded) == graph_to_dict(program.graph_module)
    refresh_values(loaded)
    assert text_of(loaded).splitlines() == text_of(program.graph_module).splitlines()


def doubled(leaf: Tensor, rows: int) -> Tensor:
    """Twice as many rows of a tensor whose first dimension is the batch, or half of it."""
    return torch.cat([leaf, leaf.flip(0)]) if leaf.ndim and leaf.shape[0] in (rows, rows // 2) else leaf


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
    return bool(left == right)


@pytest.mark.parametrize("make", [small, shaped, branched, frozen])
def test_a_graph_comes_back(make: Callable[[], Program]) -> None:
    program = make()
    require_same(program, again(program.graph_module, program.parameters))


def parameters() -> list[object]:
    found: list[object] = []
    for library in ALWAYS:
        always = entries(library)[ALWAYS[library]]
        for entry in entries(library):
            marks = [] if entry in always else [pytest.mark.slow]
            found.append(pytest.param(entry, marks=marks, id=f"{library}-{entry.name}"))
    return found


@pytest.mark.parametrize("entry", parameters())
def test_real_architectures_come_back(entry: Entry) -> None:
    model, args, kwargs = entry.build()
    program = graphopt.capture(model, args, kwargs)
    require_same(program, again(program.graph_module, program.parameters))


def test_the_same_graph_gives_the_same_text() -> None:
    program, other = (graphopt.capture(Small().eval(), *inputs()) for _ in range(2))
    texts = {json.dumps(graph_to_dict(one.graph_module)) for one in (program, other)}
    assert len(texts) == 1
    assert str(Path.cwd()) not in texts.pop()


def test_tensors_are_told_by_name_and_kind() -> None:
    described = graph_to_dict(small().graph_module)["tensors"]
    assert described["first.weight"] == {
        "dtype": "float32",
        "shape": [16, 8],
        "kind": "parameter",
        "requires_grad": True,
    }
    assert described["scale"] == {"dtype": "float32", "shape": [8], "kind": "buffer", "persistent": False}
    assert described["shift"]["persistent"] is True


def test_tied_names_take_one_tensor() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    product = graph.call_function(aten.mul.Tensor, (x, graph.get_attr("first.weight")))
    graph.output((graph.call_function(aten.mul.Tensor, (product, graph.get_attr("again.weight"))),))
    weight = nn.Parameter(torch.tensor([2.0, 3.0]), requires_grad=False)
    module = assemble(graph, {"first.weight": Attribute(weight), "again.weight": Attribute(weight)}, "Tied")
    data = graph_to_dict(module)
    assert data["tensors"]["again.weight"] == {"tied_to": "first.weight"}
    assert list(tensor_specs(data)) == ["first.weight"]
    loaded = graph_from_dict(data, {"first.weight": torch.tensor([5.0, 7.0])})
    assert loaded.first.weight is loaded.again.weight
    assert isinstance(loaded.first.weight, nn.Parameter)
    assert not loaded.first.weight.requires_grad
    assert loaded(torch.ones(2))[0].tolist() == [25.0, 49.0]


def test_one_tensor_under_two_names_stays_one() -> None:
    program = small()
    plain = {name: tensor.detach() for name, tensor in program.parameters.items()}
    plain["first.bias"] = plain["shift"] = torch.cat([plain["shift"]] * 2)
    data = graph_to_dict(program.graph_module)
    data["tensors"]["shift"]["shape"] = [16]
    loaded = graph_from_dict(data, plain)
    assert isinstance(loaded.first.bias, nn.Parameter)
    assert loaded.first.bias.data_ptr() == loaded.shift.data_ptr() == plain["shift"].data_ptr()


def test_graphs_over_the_same_parameters_share_them() -> None:
    program = small()
    one, other = (again(program.graph_module, program.parameters) for _ in range(2))
    assert one.first.weight is other.first.weight is program.parameters["first.weight"]


def test_tensors_that_nobody_reads_are_left_out() -> None:
    program = shaped()
    program.graph_module.register_parameter("idle", nn.Parameter(torch.ones(3)))
    assert set(graph_to_dict(program.graph_module)["tensors"]) >= {"table", "scale"}
    assert "idle" not in graph_to_dict(program.graph_module)["tensors"]


def test_tensors_of_bodies_have_the_bodys_name_before_theirs() -> None:
    body = fx.Graph()
    x = body.placeholder("x")
    body.output((body.call_function(aten.mul.Tensor, (x, body.get_attr("factor"))),))
    inner = assemble(body, {"factor": Attribute(torch.full((2,), 3.0))}, "Body")
    graph = fx.Graph()
    x = graph.placeholder("x")
    call = graph.call_function(
        torch.ops.higher_order.wrap_with_set_grad_enabled, (False, graph.get_attr("inner"), x), {}
    )
    graph.output(graph.call_function(operator.getitem, (call, 0)))
    outer = assemble(graph, {"inner": Attribute(inner)}, "Outer")
    described = graph_to_dict(outer)
    assert tensor_specs(described) == {
        "inner.factor": {"dtype": "float32", "shape": [2], "kind": "buffer", "persistent": True}
    }
    loaded = graph_from_dict(described, {"inner.factor": torch.full((2,), 5.0)})
    assert torch.equal(loaded(torch.ones(2))[0], torch.full((2,), 5.0))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.sampled_from(
        [
            torch.float32,
            torch.bool,
            torch.device("cpu"),
            torch.device("cuda:1"),
            torch.strided,
            torch.channels_last,
            Ellipsis,
            aten.add.Tensor,
            torch.ops.higher_order.cond,
        ]
    ),
    st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers(1, 3)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_every_kind_of_argument_comes_back(value: Any) -> None:
    found = decoded(json.loads(json.dumps(encoded(value, "x"), allow_nan=False)), {})
    assert repr(found) == repr(value)  # nan is not equal to itself, and 1 is equal to 1.0 and True


def test_a_graph_of_sizes_and_odd_arguments() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    rows = graph.call_function(aten.sym_size.int, (x, 0))
    half = graph.call_function(operator.floordiv, (graph.call_function(operator.add, (rows, 1)), 2))
    root = graph.call_function(math.floor, (graph.call_function(torch.sym_float, (half,)),))
    part = graph.call_function(aten.slice.Tensor, (x, 0, 0, root))
    filled = graph.call_function(
        aten.full.default, ([root, 3], float("inf")), {"dtype": torch.float64, "device": torch.device("cpu")}
    )
    clone = graph.call_function(aten.clone.default, (part,), {"memory_format": torch.contiguous_format})
    index = graph.call_function(aten.index.Tensor, (clone, [None, graph.call_function(aten.arange.default, (2,))]))
    graph.output({"a": [filled, root], "b": (index, None)})
    module = fx.GraphModule(nn.Module(), graph)
    module.graph.find_nodes(op="placeholder")[0].meta["val"] = torch.empty(5, 4, device="meta")
    found = again(module, {})(torch.arange(20.0).reshape(5, 4))
    assert torch.equal(found[0], torch.full((3, 3), float("inf"), dtype=torch.float64))
    assert (found[1], found[3]) == (3, None)
    assert found[2].tolist() == [[0.0, 1.0], [4.0, 5.0], [8.0, 9.0]]


def test_another_process_needs_neither_the_model_nor_an_import(tmp_path: Path) -> None:
    graph = fx.Graph()
    value, stored = graph.placeholder("value"), graph.placeholder("stored")
    call = graph.call_function(find_kernel("relative_l1").op, (value, None, stored, 0.5))
    graph.output(tuple(graph.call_function(operator.getitem, (call, place)) for place in range(3)))
    module = fx.GraphModule(nn.Module(), graph)
    x, y = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    value.meta["val"] = stored.meta["val"] = x
    (tmp_path / "graph.json").write_text(json.dumps(graph_to_dict(module)))
    save_file({"x": x, "y": y}, tmp_path / "x.safetensors")
    program = (
        "import json, sys; from pathlib import Path; from safetensors.torch import load_file\n"
        "from graphopt.exporters.program_file import graph_from_dict\n"
        f"folder = Path({str(tmp_path)!r}); held = load_file(folder / 'x.safetensors')\n"
        "module = graph_from_dict(json.loads((folder / 'graph.json').read_text()), {})\n"
        "print(json.dumps([one.tolist() for one in module(held['x'], held['y'])]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [one.tolist() for one in module(x, y)]
