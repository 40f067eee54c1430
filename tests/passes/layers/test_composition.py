"""prune-layers with other passes, on disk, in ONNX and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from passes.layers.tiny import MODELS, normal

import graphopt
from graphopt.cli import main
from graphopt.errors import PlanError, PreconditionError, VerificationError
from graphopt.rewrite.replay import replay

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((Path(graphopt.__file__).parent / "plan.schema.json").read_text(encoding="utf-8"))
LAYERS = "prune-layers{layers=[1]}"
BOTH = f"{LAYERS},prune-channels{{ratio=0.5}}"


def optimized(spec: str, name: str = "stack", **context: object) -> graphopt.Result:
    model, args, kwargs = MODELS[name]()
    return graphopt.optimize(model, args, kwargs, passes=spec, context=graphopt.PassContext(**context))


def test_the_plan_is_plain_data() -> None:
    plan = optimized(LAYERS).plan
    data = json.loads(plan.to_json())
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    names = [f"branches.1.{name}" for name in ("norm.weight", "norm.bias", "up.weight", "up.bias", "down.weight")]
    assert data["bypassed"] == [
        {"id": "block.1", "kind": "block", "replaced": {"add_1": "add"}, "tensors": [*names, "branches.1.down.bias"]}
    ]
    assert graphopt.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("name", ["stack", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit", "llama"))])
def test_channels_after_layers(name: str) -> None:
    result = optimized(BOTH, name)
    model, args, kwargs = MODELS[name]()
    program = graphopt.capture(model, args, kwargs)
    laws = [check.law for check in graphopt.verify(program, result).checks]
    assert laws == ["weights", "mask equals bypass", "weights", "mask equals slice", "shapes", "replay"]
    assert [one.id for one in result.plan.bypassed] == ["block.1"]
    assert result.plan.axes
    assert result.plan.passes == (LAYERS, "prune-channels{ratio=0.5}")
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(result.plan.to_json()))


def test_channels_of_what_is_left_are_those_of_the_smaller_model() -> None:
    model, args, _ = MODELS["stack"]()
    result = graphopt.optimize(model, args, passes=BOTH)
    del model.branches[1]
    alone = graphopt.optimize(model, args, passes="prune-channels{ratio=0.5}")
    assert torch.equal(result.program(*args), alone.program(*args))


def test_a_state_dict_is_replayed_without_the_model() -> None:
    model, args, kwargs = MODELS["stack"]()
    result = graphopt.optimize(model, args, kwargs, passes=BOTH)
    sliced = result.plan.slice_state_dict(model.state_dict())
    assert sliced.keys() == result.program.parameters.keys()
    assert all(torch.equal(sliced[name], tensor) for name, tensor in result.program.parameters.items())


def test_layers_after_channels_are_refused() -> None:
    with pytest.raises(PreconditionError, match="put prune-layers before prune-channels"):
        optimized("prune-channels{ratio=0.5},prune-layers{count=1}")


def test_layers_twice_is_once_with_both() -> None:
    twice = optimized("prune-layers{layers=[1]},prune-layers{layers=[block.2,branch.0]}")
    once = optimized("prune-layers{layers=[1,2,branch.0]}")
    _, args, kwargs = MODELS["stack"]()
    assert {one.id for one in twice.plan.bypassed} == {one.id for one in once.plan.bypassed}
    assert torch.equal(twice.program(*args, **kwargs), once.program(*args, **kwargs))
    assert twice.program.parameters.keys() == once.program.parameters.keys()


def test_a_budget_after_a_budget_is_of_the_captured_model() -> None:
    result = optimized("prune-layers{params=0.9},prune-layers{params=0.6},prune-layers{params=0.6}")
    first, _, last = result.report.passes
    assert last.after["parameters_without_vocabulary"] <= 0.6 * first.before["parameters_without_vocabulary"]
    assert last.before == last.after


@pytest.mark.parametrize("units", ["block", pytest.param("branch", marks=pytest.mark.slow)])
def test_neighbours_left_out_one_after_the_other(units: str) -> None:
    result = optimized(f"prune-layers{{units={units},layers=[2]}},prune-layers{{units={units},layers=[1]}}", "vit")
    once = optimized(f"prune-layers{{units={units},layers=[1,2]}}", "vit")
    _, args, _ = MODELS["vit"]()
    assert torch.equal(result.program(*args), once.program(*args))


@pytest.mark.parametrize("name", ["stack", pytest.param("pixart", marks=pytest.mark.slow)])
def test_a_cache_after_layers(name: str) -> None:
    spec = f"{LAYERS},insert-cache{{cuts=[branch.0],schedule=uniform:2}}"
    result = optimized(spec, name)
    assert sorted(result.programs) == ["cached", "full"]
    assert [one.id for one in result.plan.bypassed] == ["block.1"]
    assert result.plan.schedule is not None
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(result.plan.to_json()))


def test_all_three_and_back_from_disk(tmp_path: Path) -> None:
    result = optimized(f"{BOTH},insert-cache{{cuts=[branch.0],schedule=uniform:2}}")
    result.save(tmp_path / "out")
    model, args, _ = MODELS["stack"]()
    loaded = graphopt.load(tmp_path / "out", model=model)
    assert loaded.plan == result.plan
    assert torch.equal(loaded.program(*args), result.program(*args))
    assert sorted(loaded.programs) == sorted(result.programs)


def test_trained_weights_stay_through_disk_and_a_second_pass(tmp_path: Path) -> None:
    first = optimized(LAYERS)
    with torch.no_grad():
        for parameter in first.module().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    first.save(tmp_path / "out")
    model, args, _ = MODELS["stack"]()
    loaded = graphopt.load(tmp_path / "out", model=model)
    program = graphopt.capture(model, args)
    for start in (first, loaded):
        second = graphopt.Pipeline("prune-layers{layers=[3]},prune-channels{ratio=0.5}").run(start.program)
        assert [one.id for one in second.plan.bypassed] == ["block.1", "block.3"]
        kept = second.plan.parameters()["head.weight"][1]
        assert torch.equal(second.program.parameters["head.weight"], start.program.parameters["head.weight"][:, kept])
        graphopt.verify(program, second, trained=True)
    with pytest.raises(VerificationError, match="verify with trained=True"):
        graphopt.verify(program, first)
    graphopt.verify(program, first, trained=True)


def test_replay_on_other_weights() -> None:
    plan = graphopt.Plan.from_json(optimized(BOTH).plan.to_json())
    model, args, _ = MODELS["stack"]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    replayed = replay(plan, graphopt.capture(model, args))
    sliced = plan.slice_state_dict(model.state_dict())
    assert all(torch.equal(sliced[name], tensor) for name, tensor in replayed.parameters.items())


def test_a_plan_for_another_graph_is_refused() -> None:
    model, args, _ = MODELS["stack"]()
    plan = optimized(LAYERS).plan
    data = plan.to_dict()
    program = graphopt.capture(model, args)
    data["bypassed"][0]["replaced"] = {"add_77": "add"}
    with pytest.raises(PlanError, match="left out at add_77, which is no tensor of this program"):
        replay(graphopt.Plan.from_dict(data), program)
    data["bypassed"][0]["replaced"] = {"add_1": "relu"}
    with pytest.raises(PlanError, match=r"relu, torch.float32 \[4, 6, 8\], cannot stand for add_1, torch.float32"):
        replay(graphopt.Plan.from_dict(data), program)
    data["bypassed"] = [{"id": "block.1"}]
    with pytest.raises(PlanError, match="the plan is damaged"):
        graphopt.Plan.from_dict(data)


def test_onnx_gives_the_same(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    result = optimized(LAYERS)
    path = tmp_path / "out.onnx"
    graphopt.export_onnx(result, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = normal(3, 6, 5, seed=5)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), result.program(x), atol=1e-5)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    words = [
        f"{ROOT / 'examples' / 'my_model.py'}:build",
        *("--passes", "prune-layers{count=1,importance=bi}"),
        *("--calibration", f"{ROOT / 'examples' / 'my_data.py'}:batches", "--out", str(tmp_path / "out")),
    ]
    assert main(["optimize", *words, "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)["report"]["passes"][0]
    assert entry["before"]["parameters"] - entry["after"]["parameters"] == 28_272
    plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    assert [one["kind"] for one in plan["bypassed"]] == ["block"]
