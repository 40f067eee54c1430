"""Modules that are kept whole, since the weights decide what they do."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from traced_models import EXPERTS, ROWS, Chosen, Experts, Flexible, Routed, RoutedNet, line_of

import graphopt
from graphopt.cost import cost
from graphopt.errors import ExportError, GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.exporters.program_file import graph_to_dict
from graphopt.opaque import whole_names
from graphopt.printer import render
from graphopt.program import Program
from graphopt.tracing import capture
from graphopt.whole_parts import widened


@pytest.fixture(scope="module")
def model() -> RoutedNet:
    torch.manual_seed(0)
    return RoutedNet()


@pytest.fixture(scope="module")
def program(model: RoutedNet) -> Program:
    return capture(model, (ROWS,))


def pruned(program: Program, **context: object) -> graphopt.Result:
    return graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(
        program, graphopt.PassContext(seed=0, verify=False, **context)
    )


@pytest.mark.parametrize("rows", [2, 7])
def test_the_program_is_the_model_at_any_batch(model: RoutedNet, program: Program, rows: int) -> None:
    assert program.dynamic_batch
    x = torch.randn(rows, 5, 8)
    assert torch.equal(program(x), model(x))
    assert torch.equal(program.module()(x), model(x))


def test_it_runs_the_experts_that_its_own_data_choose(model: RoutedNet) -> None:
    program = capture(model, (ROWS[:, :1],))
    rows = torch.randn(60, 1, 8)
    chosen = {int(model.routed[0].router(row).argmax()) for row in rows + model.down[0](model.up[0](rows).relu())}
    assert chosen == {0, 1, 2}
    for pair in rows.split(2):
        assert torch.equal(program(pair), model(pair))


def test_the_innermost_modules_are_found_and_told(program: Program) -> None:
    assert whole_names(program.nodes()) == EXPERTS
    where = f"{line_of(Experts.forward, 'tolist')}: for expert in index.unique().tolist():"
    assert len(program.notes) == 1
    assert program.notes[0].startswith("kept whole: routed.0.experts, routed.1.experts, as the weights decide at ")
    assert program.notes[0].endswith(where)


def test_the_model_is_left_as_it_was(model: RoutedNet) -> None:
    before = [dict(vars(module)) for module in model.modules()]
    capture(model, (ROWS,))
    after = [dict(vars(module)) for module in model.modules()]
    assert [list(held) for held in before] == [list(held) for held in after]
    assert not any("forward" in held for held in after)


def test_parameters_keep_names_and_numbers(model: RoutedNet, program: Program) -> None:
    held = dict(model.named_parameters())
    assert {name: tuple(one.shape) for name, one in program.parameters.items()} == {
        name: tuple(one.shape) for name, one in held.items()
    }


def test_what_is_free_is_pruned_and_the_laws_hold(model: RoutedNet, program: Program) -> None:
    result = pruned(program)
    shapes = {name: tuple(one.shape) for name, one in result.program.parameters.items()}
    assert shapes["up.0.weight"] == (8, 8)
    assert shapes["routed.0.experts.layers.0.weight"] == (8, 8)
    errors = {check.law: check.error for check in graphopt.verify(program, result).checks}
    assert errors["mask equals slice"] < 1e-5
    assert errors["shapes"] == errors["replay"] == 0
    again = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(
        capture(model, (ROWS,)), graphopt.PassContext(seed=0, verify=False)
    )
    x = torch.randn(3, 5, 8)
    assert torch.equal(result.program(x), again.program(x))


def test_the_program_reads_its_own_tensors(program: Program) -> None:
    result = pruned(program)
    x = torch.randn(3, 5, 8)
    before = result.program(x)
    module = result.program.module()
    with torch.no_grad():
        for layer in range(3):
            module.get_submodule(f"routed.1.experts.layers.{layer}").weight.mul_(2)
    assert not torch.equal(module(x), before)


def test_the_reason_says_what_is_kept_and_where(program: Program) -> None:
    graph = graphopt.DependencyGraph(program)
    assert graph.analysis.failures == {}
    where = f"{__file__.rpartition('/')[0]}/traced_models.py:{line_of(Experts.forward, 'tolist')}"
    read = f"{where.rpartition(':')[0]}:{line_of(Routed.forward, 'self.experts')}"
    code = "for expert in index.unique().tolist():"
    wanted = (
        f"routed.0.experts is kept whole, as the weights decide at {where}: {code} by graphopt.opaque.default at {read}"
    )
    reasons = {axis.reason for axis in graph.frozen if axis.tensor.startswith("routed.0.experts")}
    assert reasons == {wanted}


def test_the_users_class_comes_back(model: RoutedNet, program: Program) -> None:
    result = pruned(program)
    smaller = result.module(model)
    assert isinstance(smaller, RoutedNet)
    assert smaller.up[0].out_features == 8
    x = torch.randn(3, 5, 8)
    assert torch.allclose(smaller(x), result.program(x), atol=1e-6)


def test_two_captures_have_one_fingerprint_and_one_text(model: RoutedNet, program: Program) -> None:
    again = capture(model, (ROWS,))
    assert again.source == program.source
    assert render(again.graph_module, "") == render(program.graph_module, "")
    assert "serial" not in str(program)


@pytest.mark.parametrize("opaque", [(), ("routed.*",)])
def test_saved_results_come_back_into_the_model(model: RoutedNet, tmp_path: Path, opaque: tuple[str, ...]) -> None:
    result = pruned(capture(model, (ROWS,), opaque=opaque))
    result.save(tmp_path / "saved")
    loaded = graphopt.load(tmp_path / "saved", copy.deepcopy(model))
    x = torch.randn(3, 5, 8)
    assert torch.allclose(loaded.program(x), result.program(x), atol=1e-6)


def test_copies_of_the_module_run(program: Program) -> None:
    module, x = program.module(), torch.randn(3, 5, 8)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))
    assert torch.equal(capture(module, (ROWS,))(x), module(x))


def test_compiled_modules_run(program: Program) -> None:
    module, x = program.module(), torch.randn(3, 5, 8)
    compiled = torch.compile(module, backend="aot_eager")
    assert torch.equal(compiled(x), module(x))
    assert torch.equal(compiled(x[:2]), module(x[:2]))


def test_files_have_no_place_for_users_code(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"routed\.0\.experts is kept whole: .* no ONNX file holds; capture a model"):
        graphopt.export_onnx(program, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match=r"routed\.0\.experts is kept whole: .* no file holds; save the result"):
        graph_to_dict(program.graph_module)


def test_what_the_code_multiplies_is_counted(program: Program) -> None:
    rows = 2 * 5
    blocks = 2 * rows * (8 * 16 + 16 * 8 + 8 * 3 + 8 * 8)
    assert cost(program).macs == blocks + rows * 8 * 5


class TrimmedNet(RoutedNet):
    """Reads no further than the longest row of the batch."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(x[:, : int(mask.sum(1).max())])


def test_what_the_inputs_decide_is_still_asked() -> None:
    torch.manual_seed(0)
    model, mask = TrimmedNet(), torch.ones(2, 5, dtype=torch.long)
    mask[:, 4:] = 0
    program = capture(model, (ROWS, mask))
    assert program.dynamic_batch
    assert whole_names(program.nodes()) == EXPERTS
    x, wider = torch.randn(6, 5, 8), torch.cat([mask] * 3)
    assert torch.equal(program(x, wider), model(x, wider))
    with pytest.raises(GraphoptError, match="the inputs' data give 5 at"):
        program(x, torch.ones_like(wider))


# ------------------------------------------------------------- what is around


class Sorted(nn.Module):
    """Chooses rows inside, of which nobody outside sees the number."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen, self.linear = Chosen(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.chosen(self.linear(x.reshape(-1, 4)))
        return x + rows.sum(0)


def test_the_closest_module_around_with_sizes_of_its_own_is_kept() -> None:
    def forward(self, x):
        return self.linear(self.sorted(self.linear(x)))

    torch.manual_seed(0)
    model = Flexible(forward, sorted=Sorted())
    inputs = ExampleInputs((torch.randn(3, 5, 4),), {})
    assert widened(model.eval(), inputs, {"sorted.chosen": "why"}) == {"sorted": "why"}
    program = capture(model, inputs.args)
    assert whole_names(program.nodes()) == ["sorted"]
    x = torch.randn(4, 5, 4)
    assert torch.equal(program(x), model(x))


def test_a_model_of_which_nothing_would_be_left_is_refused() -> None:
    model = nn.Sequential(Routed())
    assert widened(model.eval(), ExampleInputs((ROWS,), {}), {"0": "why"}) == {}


# --------------------------------------------------------- how a part is called


class Scaled(nn.Module):
    """Takes and gives nested structures, numbers among them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, pair: dict[str, torch.Tensor], *, times: float, names: bool = False) -> dict[str, object]:
        y = self.linear(pair["x"]) * times + self.shift
        return {"same": pair["x"], "y": y, "none": None, "names": names, "again": [y]}


def test_structures_and_constants_pass_through() -> None:
    def forward(self, x):
        first = self.scaled({"x": self.linear(x)}, times=2.0)
        second = self.scaled({"x": first["y"]}, times=3.0, names=True)
        assert first["none"] is None
        assert second["names"] is True
        return {"a": first["again"][0] + second["same"], "b": second["y"]}

    model = Flexible(forward, scaled=Scaled())
    program = capture(model, (torch.randn(2, 4),), opaque=("scaled",))
    assert whole_names(program.nodes()) == ["scaled", "scaled"]
    x = torch.randn(5, 4)
    found, wanted = (pytree.tree_leaves(one(x)) for one in (program, model))
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_hooks_run_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].register_forward_hook(lambda module, args, result: result + 1)
    program = capture(model, (torch.randn(2, 4),), opaque=("1",))
    x = torch.randn(3, 4)
    assert torch.equal(program(x), model(x))


class Keeping(nn.Module):
    """Keeps what it once made of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(4, 4), {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.setdefault("weight", self.linear.weight * 2)
        return x @ self.kept["weight"]


def test_nothing_is_kept_of_made_up_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Keeping())
    program = capture(model, (torch.randn(2, 4),), opaque=("1",))
    assert model[1].kept == {}
    x = torch.randn(3, 4)
    assert torch.equal(program(x), model(x))
