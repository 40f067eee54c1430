"""A plan carried out on the disk gives what slicing in memory gives."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import graphopt
from graphopt.errors import ExportError, PlanError
from graphopt.exporters.applying import apply_plan
from graphopt.exporters.checkpoint import load_checkpoint, open_checkpoint
from graphopt.plan import Plan
from graphopt.rewrite.replay import replay

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.block = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.arange(1.0, 17.0), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(ids) * self.scale
        return self.head(self.norm(hidden + self.block(hidden)))


def prune(model: nn.Module) -> graphopt.Result:
    return graphopt.optimize(model, (torch.tensor([1, 2, 3]),), passes="prune-channels{ratio=0.5,scope=uniform}")


@pytest.fixture(scope="module")
def model() -> Tied:
    torch.manual_seed(0)
    return Tied().eval()


@pytest.fixture(scope="module")
def result(model: Tied) -> graphopt.Result:
    return prune(model)


@pytest.fixture(scope="module")
def plan(result: graphopt.Result) -> Plan:
    assert result.plan is not None
    return result.plan


def saved_tensors(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


def write_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    halves = [sorted(tensors)[::2], sorted(tensors)[1::2]]
    for file, names in zip(SHARDS, halves, strict=True):
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, names in zip(SHARDS, halves, strict=True) for name in names}
    index = {"metadata": {"total_size": 1, "made_by": "a test"}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
    return folder / INDEX


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(bits(found[name]), bits(tensor)), name


def test_shards_equal_slicing_in_memory(tmp_path: Path, model: Tied, plan: Plan) -> None:
    tensors = saved_tensors(model)
    done = apply_plan(plan, write_shards(tmp_path / "old", tensors), tmp_path / "new")
    wanted = plan.slice_state_dict(tensors)
    assert_same(read_all(tmp_path / "new"), wanted)
    index = json.loads((tmp_path / "new" / INDEX).read_text())
    assert index["metadata"] == {
        "total_size": sum(tensor.numel() * tensor.element_size() for tensor in wanted.values()),
        "made_by": "a test",
    }
    assert {name: SHARDS[number % 2] for number, name in enumerate(sorted(tensors))} == index["weight_map"]
    assert "embed.weight" in done.changed
    assert "norm.num_batches_tracked" not in done.changed
    assert done.files == {file: (tmp_path / "new" / file).stat().st_size for file in SHARDS}
    assert done.bytes_after == index["metadata"]["total_size"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float64], ids=str)
def test_types_and_bits_are_kept(tmp_path: Path, model: Tied, plan: Plan, dtype: torch.dtype) -> None:
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in saved_tensors(model).items()}
    apply_plan(plan, write_shards(tmp_path / "old", tensors), tmp_path / "new")
    assert_same(read_all(tmp_path / "new"), plan.slice_state_dict(tensors))


def test_a_single_file_under_a_prefix_loads_into_the_result(tmp_path: Path, result: graphopt.Result) -> None:
    torch.manual_seed(1)
    tuned = Tied().eval()
    (tmp_path / "old").mkdir()
    save_file(saved_tensors(tuned, "model."), tmp_path / "old" / "model.safetensors")
    assert result.plan is not None
    apply_plan(result.plan, tmp_path / "old", tmp_path / "new", prefix="model.")
    wanted = replay(result.plan, graphopt.capture(tuned, (torch.tensor([1, 2, 3]),)))(torch.tensor([4, 5]))
    other = result.module()
    with pytest.raises(
        PlanError, match=r"the checkpoint has model\.block\.0\.bias, .*; the module has block\.0\.weight,"
    ):
        load_checkpoint(other, tmp_path / "new")
    load_checkpoint(other, tmp_path / "new", prefix="model.")
    assert torch.equal(other(torch.tensor([4, 5])), wanted)


def test_meta_tensors_are_replaced_and_stay_tied(tmp_path: Path) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    module = Head().to("meta")
    module.head.weight = module.embed.weight
    save_file({"embed.weight": torch.randn(5, 4)}, tmp_path / "one.safetensors")
    load_checkpoint(module, tmp_path / "one.safetensors")
    assert module.head.weight is module.embed.weight
    assert torch.equal(module.head.weight, load_file(tmp_path / "one.safetensors")["embed.weight"])


def test_names_of_a_wrapped_model(tmp_path: Path, model: Tied) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.inner(ids)

    wrapped = prune(Wrapper()).plan
    assert wrapped is not None
    tensors = saved_tensors(model)
    old = write_shards(tmp_path / "old", tensors)
    with pytest.raises(PlanError, match=r"wrapped='inner\.' would match"):
        apply_plan(wrapped, old, tmp_path / "new")
    apply_plan(wrapped, old, tmp_path / "new", wrapped="inner.")
    inner = {f"inner.{name}": tensor for name, tensor in tensors.items()}
    sliced = {name.removeprefix("inner."): tensor for name, tensor in wrapped.slice_state_dict(inner).items()}
    assert_same(read_all(tmp_path / "new"), sliced)


def test_what_does_not_match_is_told_and_nothing_is_written(tmp_path: Path, model: Tied, plan: Plan) -> None:
    prefixed = write_shards(tmp_path / "prefixed", saved_tensors(model, "model."))
    with pytest.raises(PlanError, match=r"10 keys that it does not know: .*prefix='model\.' would match 10 of them"):
        apply_plan(plan, prefixed, tmp_path / "new")
    short = saved_tensors(model)
    short["block.0.wieght"] = short.pop("block.0.weight")
    with pytest.raises(
        PlanError, match=r"wanted 1 more: block\.0\.weight \(the closest to the first is block\.0\.wieg"
    ):
        apply_plan(plan, write_shards(tmp_path / "short", short), tmp_path / "new")
    wide = saved_tensors(model) | {"block.0.bias": torch.zeros(31)}
    with pytest.raises(
        PlanError, match=r"block\.0\.bias is \[31\] in the checkpoint, but the plan was made for \[32\]"
    ):
        apply_plan(plan, write_shards(tmp_path / "wide", wide), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unknown_keys_are_refused_copied_or_dropped(tmp_path: Path, model: Tied, plan: Plan) -> None:
    tensors = saved_tensors(model)
    more = tensors | {"value_head.weight": torch.randn(1, 16)}
    old = write_shards(tmp_path / "old", more)
    with pytest.raises(PlanError, match=r"1 keys that it does not know: value_head\.weight; unknown='copy' takes"):
        apply_plan(plan, old, tmp_path / "new")
    apply_plan(plan, old, tmp_path / "copied", unknown="copy")
    done = apply_plan(plan, old, tmp_path / "dropped", unknown="drop")
    sliced = plan.slice_state_dict(tensors)
    assert_same(read_all(tmp_path / "copied"), sliced | {"value_head.weight": more["value_head.weight"]})
    assert_same(read_all(tmp_path / "dropped"), sliced)
    assert done.left_out == ("value_head.weight",)


def test_bypassed_layers_leave_the_checkpoint(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(self.up(x).relu())

    stack = nn.Sequential(*(Block() for _ in range(4)))
    result = graphopt.optimize(stack, (torch.randn(3, 8),), passes="prune-layers{layers=[1,3]}")
    assert result.plan is not None
    tensors = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    done = apply_plan(result.plan, write_shards(tmp_path / "old", tensors), tmp_path / "new")
    assert_same(read_all(tmp_path / "new"), {n: t for n, t in tensors.items() if n[0] in "02"})
    assert {key[0] for key in done.left_out} == {"1", "3"}


def test_what_is_there_is_replaced_only_if_graphopt_wrote_it(tmp_path: Path, model: Tied, plan: Plan) -> None:
    old = write_shards(tmp_path / "old", saved_tensors(model))
    with pytest.raises(ExportError, match="holds the checkpoint that is read"):
        apply_plan(plan, old, tmp_path / "old")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"files that no saved result put there \(notes\.txt\)"):
        apply_plan(plan, old, tmp_path / "mine")
    apply_plan(plan, old, tmp_path / "new")
    apply_plan(tmp_path / "new", old, tmp_path / "new")
    assert_same(read_all(tmp_path / "new"), plan.slice_state_dict(saved_tensors(model)))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_damage_is_told(tmp_path: Path, model: Tied, plan: Plan) -> None:
    old = write_shards(tmp_path / "old", saved_tensors(model))
    index = json.loads(old.read_text())
    key = sorted(index["weight_map"])[0]
    old.write_text(json.dumps({"weight_map": index["weight_map"] | {key: SHARDS[1]}}))
    with pytest.raises(PlanError, match=f"says that {key} lies in {SHARDS[1]}, which does not hold it"):
        apply_plan(plan, old, tmp_path / "new")
    old.write_text(json.dumps({"weight_map": {key: "../outside.safetensors"}}))
    with pytest.raises(PlanError, match=r"names '\.\./outside\.safetensors' as a shard"):
        open_checkpoint(old)
    (tmp_path / "old" / SHARDS[0]).write_bytes(b"cut")
    old.write_text(json.dumps(index))
    with pytest.raises(PlanError, match=f"{SHARDS[0]} cannot be read"):
        open_checkpoint(old)
    old.unlink()
    with pytest.raises(PlanError, match="found 2 checkpoints in"):
        open_checkpoint(tmp_path / "old")


def test_shapes_and_missing_values_are_told_before_loading(tmp_path: Path) -> None:
    class Making(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.register_buffer("made", torch.zeros(3, device="meta"), persistent=False)

    save_file({"weight": torch.ones(3, 2), "bias": torch.ones(4)}, tmp_path / "wide.safetensors")
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises(PlanError, match=r"bias is \[4\] in the checkpoint and \[3\] in the module"):
        load_checkpoint(layer, tmp_path / "wide.safetensors")
    assert torch.equal(layer.weight, before)
    save_file({"weight": torch.ones(3, 2), "bias": torch.ones(3)}, tmp_path / "fits.safetensors")
    with pytest.raises(PlanError, match="made are on the meta device and no checkpoint holds them"):
        load_checkpoint(Making(), tmp_path / "fits.safetensors")


def test_biases_that_constants_were_folded_into_are_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight[2:4] = 0
        model[0].bias[2:4] = 1
    x = torch.randn(3, 4)
    result = graphopt.optimize(model, (x,), passes="remove-dead")
    assert result.plan is not None
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = apply_plan(result.plan, write_shards(tmp_path / "old", tensors), tmp_path / "new")
    assert done.added == ("2.bias",)
    assert_same(read_all(tmp_path / "new"), result.plan.slice_state_dict(tensors))
    module = result.module()
    wanted = module(x)
    load_checkpoint(module, tmp_path / "new")
    assert torch.allclose(module(x), wanted, atol=1e-6)
    assert torch.allclose(wanted, model(x), atol=1e-6)
