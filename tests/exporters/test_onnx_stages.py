import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exporters.partitioned import Chain, chain, chain_inputs, in_parts, partitioned
from zoo.catalogue import entries

import graphopt
from graphopt.errors import ExportError, PlanError
from graphopt.exporters.manifest import check_manifest
from graphopt.exporters.onnx import export_onnx
from graphopt.exporters.runtime import run_onnx
from graphopt.exporters.stage_files import load_device
from graphopt.exporters.weights import load, save_result
from graphopt.pass_manager.result import Result
from graphopt.program import Program
from graphopt.stages import Mode
from graphopt.tracing import capture

onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def program() -> Program:
    return chain()


@pytest.fixture(scope="module")
def result(program: Program) -> Result:
    return partitioned(program, in_parts(program, 2))


@pytest.fixture(scope="module")
def exported(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "onnx"
    export_onnx(result, folder)
    return folder


def play(folder: Path, phase: str, values: dict[str, Any]) -> dict[str, Any]:
    """Run the files of a phase one after another, with nothing but stages.json and ONNX Runtime."""
    content = json.loads((folder / "stages.json").read_text())
    values = dict(values)
    for entry in content["phases"][phase]["segments"]:
        found = run_onnx(folder / entry["file"], {name: values[name] for name in entry["inputs"]})
        values |= dict(zip(entry["outputs"], found, strict=True))
    return values


def played_outputs(folder: Path, values: dict[str, Any], phase: str = "sync") -> list[torch.Tensor]:
    content = json.loads((folder / "stages.json").read_text())
    found = play(folder, phase, values)
    return [torch.as_tensor(found[name]) for name in content["phases"][phase]["outputs"]]


def close(found: list[torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return len(found) == len(wanted) and all(
        torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(found, wanted.values(), strict=True)
    )


@pytest.mark.parametrize("batch", [4, 7])
def test_the_files_together_compute_what_the_model_does(program: Program, exported: Path, batch: int) -> None:
    (sample,), kwargs = chain_inputs(batch)
    assert close(played_outputs(exported, {"sample": sample, **kwargs}), program(sample, **kwargs))


def test_files_and_names_are_those_of_the_edges(result: Result, exported: Path) -> None:
    content = json.loads((exported / "stages.json").read_text())
    assert sorted(path.name for path in exported.iterdir()) == ["stage.0.onnx", "stage.1.onnx", "stages.json"]
    assert content["phases"]["sync"]["segments"] == [
        {
            "id": "0.0",
            "device": 0,
            "file": "stage.0.onnx",
            "weights": [],
            "inputs": ["sample", "timestep"],
            "outputs": ["add"],
        },
        {
            "id": "1.0",
            "device": 1,
            "file": "stage.1.onnx",
            "weights": [],
            "inputs": ["add"],
            "outputs": ["linear_2", "mul_1"],
        },
    ]
    assert [(edge["value"], edge["source"], edge["target"]) for edge in content["phases"]["sync"]["edges"]] == [
        (edge.value, edge.source, edge.target) for edge in result.partition.phases["sync"].edges
    ]
    graphs = [onnx.load(exported / f"stage.{device}.onnx").graph for device in (0, 1)]
    assert [value.name for value in graphs[0].output] == ["add"] == [value.name for value in graphs[1].input]
    assert {value.name for value in graphs[0].initializer} >= {"first.bias", "scale"}
    assert not {value.name for value in graphs[0].initializer} & {"second.weight", "third.bias", "last.bias"}


def test_the_report_tells_what_was_measured(result: Result, tmp_path: Path) -> None:
    report = export_onnx(result, tmp_path / "onnx")
    assert (report.inputs, report.outputs, report.opset) == (("sample", "timestep"), ("mul_1", "linear_2"), 20)
    assert (report.batch_sizes, report.dynamic_batch, report.notes) == ((4, 8), True, ())
    assert list(report.programs) == ["sync/0.0", "sync/1.0"]
    assert report.programs["sync/1.0"].path == tmp_path / "onnx" / "stage.1.onnx"
    assert 0 < max(error.relative for error in report.errors) < 1e-5
    assert {error.name for error in report.errors} == {"add", "linear_2", "mul_1"}
    assert report.size_bytes == sum(path.stat().st_size for path in (tmp_path / "onnx").iterdir())


@pytest.mark.parametrize(
    ("mode", "stages", "parts"),
    [("pipeline", 2, 2), ("cfg", 1, 1), pytest.param("cfg", 2, 1, marks=pytest.mark.slow)],
)
def test_several_segments_a_device_lie_over_one_file_of_weights(
    program: Program, tmp_path: Path, mode: Mode, stages: int, parts: int
) -> None:
    made = partitioned(program, in_parts(program, stages), mode, parts)
    report = export_onnx(made, tmp_path)
    content = json.loads((tmp_path / "stages.json").read_text())
    for entry in content["phases"]["sync"]["segments"]:
        assert entry["file"] == f"stage.{entry['id']}.onnx"
    weights = {
        device: {
            name for one in content["phases"]["sync"]["segments"] if one["device"] == device for name in one["weights"]
        }
        for device in range(content["devices"])
    }
    several = [device for device, names in weights.items() if names]
    assert all(len(names) <= 1 for names in weights.values())
    assert 0 in several
    assert report.batch_sizes == (4, 8)
    (sample,), kwargs = chain_inputs(8)
    assert close(played_outputs(tmp_path, {"sample": sample, **kwargs}), program(sample, **kwargs))


def test_steady_steps_have_files_of_their_own_where_they_differ(program: Program, tmp_path: Path) -> None:
    made = partitioned(program, in_parts(program, 2), "async")
    export_onnx(made, tmp_path)
    content = json.loads((tmp_path / "stages.json").read_text())
    files = {name: [one["file"] for one in phase["segments"]] for name, phase in content["phases"].items()}
    assert files == {"sync": ["stage.0.onnx", "stage.1.onnx"], "steady": ["stage.0.onnx", "stage.steady.1.onnx"]} or (
        files == {"sync": ["stage.0.onnx", "stage.1.onnx"], "steady": ["stage.steady.1.onnx", "stage.0.onnx"]}
    )
    (delay,) = content["delays"]
    assert delay["name"] in next(one for one in content["phases"]["steady"]["segments"] if one["device"] == 1)["inputs"]
    (sample,), kwargs = chain_inputs(4)
    (other,), _ = chain_inputs(5)
    first = play(tmp_path, "sync", {"sample": other[:4], **kwargs})
    steady = {"sample": sample, **kwargs, delay["name"]: first[delay["value"]]}
    late = played_outputs(tmp_path, steady, "steady")
    assert close(late, program(other[:4], **kwargs))
    assert not close(late, program(sample, **kwargs))


def test_the_files_join_a_saved_result_and_leave_with_the_next_export(
    program: Program, result: Result, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    save_result(result, folder)
    export_onnx(result, folder)
    check_manifest(folder)
    assert (folder / "stages" / "1.json").exists()
    assert (folder / "stage.1.onnx").exists()
    assert load_device(folder, 0).keys() == {("sync", "0.0")}
    again = load(folder, Chain())
    export_onnx(again, folder, opset=18)
    check_manifest(folder)
    assert onnx.load(folder / "stage.0.onnx").opset_import[0].version == 18
    other = partitioned(program, in_parts(program, 3))
    with pytest.raises(ExportError, match=r"plan\.json is of another result"):
        export_onnx(other, folder)
    plain = tmp_path / "plain"
    export_onnx(other, plain)
    assert (plain / "stage.2.onnx").exists()
    export_onnx(result, plain)
    assert sorted(path.name for path in plain.iterdir()) == ["stage.0.onnx", "stage.1.onnx", "stages.json"]


def test_what_cannot_be_exported_leaves_nothing(result: Result, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"stage\.onnx is to be one file, and every device"):
        export_onnx(result, tmp_path / "stage.onnx")
    with pytest.raises(ExportError, match="and the result has several"):
        export_onnx(result, tmp_path / "onnx", single_file=True)
    with pytest.raises(ExportError, match=r"ONNX Runtime and torch differ in the program sync/0\.0"):
        export_onnx(result, tmp_path / "onnx", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_found(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.exporters import onnx_stages

    built = onnx_stages.build_onnx

    def wrong(program: Program, *rest: Any) -> Any:
        made = built(program, *rest)
        bias = made.model.graph.initializers.get("second.bias")
        if bias is not None:
            bias.const_value = onnx_ir.tensor(bias.const_value.numpy() + 0.01, name="second.bias")
        return made

    monkeypatch.setattr(onnx_stages, "build_onnx", wrong)
    with pytest.raises(ExportError, match=r"differ in the program sync/1\.0:\n  linear_2 at batch size 4"):
        export_onnx(result, tmp_path / "onnx")


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("peer_failures", "attention_joint_streams"),
        pytest.param("diffusers", "unet_2d", marks=pytest.mark.slow),
        pytest.param("diffusers", "pixart", marks=pytest.mark.slow),
        pytest.param("torchvision", "regnet_x", marks=pytest.mark.slow),
        pytest.param("transformers", "t5", marks=pytest.mark.slow),
        pytest.param("timm", "deit_tiny_distilled_patch16_224", marks=pytest.mark.slow),
    ],
)
def test_stages_of_real_architectures(library: str, name: str, tmp_path: Path) -> None:
    model, args, kwargs = next(entry for entry in entries(library) if entry.name == name).build()
    program = capture(model, args, kwargs)
    report = export_onnx(partitioned(program, in_parts(program, 3)), tmp_path)
    assert len(report.batch_sizes) == 2
    assert max(error.relative for error in report.errors) < 1e-4


def test_the_public_call_takes_a_partitioned_result(result: Result, tmp_path: Path) -> None:
    assert graphopt.export_onnx(result, tmp_path, verify=False).errors == ()
    with pytest.raises(PlanError, match=r"is .* a saved result"):
        load_device(tmp_path, 0)
