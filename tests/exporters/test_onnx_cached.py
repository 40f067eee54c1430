"""Files of a result with a schedule: what lies in them, how they appear, what they refuse."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exporters.cached_results import LINEAR, THRESHOLD, UNIFORM, cached_result, call
from onnx import TensorProto

from graphopt.errors import ExportError
from graphopt.exporters import onnx_steps_check
from graphopt.exporters.manifest import check_manifest
from graphopt.exporters.onnx import OnnxReport, export_onnx
from graphopt.exporters.runtime import run_onnx
from graphopt.exporters.weights import save_result
from graphopt.pass_manager.result import Result
from graphopt.schedule import Schedule

Export = tuple[Result, OnnxReport]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Export]:
    """Export a result of each kind once; read by many tests, changed by none."""
    made: dict[str, Export] = {}

    def export(spec: str) -> Export:
        if spec not in made:
            result = cached_result(spec)
            made[spec] = result, export_onnx(result, tmp_path_factory.mktemp("onnx") / "out")
        return made[spec]

    return export


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def initializers(path: Path) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}


def place(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


@pytest.mark.parametrize(
    ("spec", "programs"),
    [
        (UNIFORM, ["full", "cached"]),
        (LINEAR, ["full", "refresh", "cached"]),
        (THRESHOLD, ["full", "probe", "tail-full", "tail-cached"]),
    ],
)
def test_a_file_for_each_program_and_one_of_weights(
    exported: Callable[[str], Export], spec: str, programs: list[str]
) -> None:
    _, report = exported(spec)
    data = next(name for name in names(report.path) if name.startswith("weights."))
    assert names(report.path) == sorted([*(f"{name}.onnx" for name in programs), data, "schedule.json"])
    assert list(report.programs) == programs
    assert [path.name for path in report.files] == [*(f"{name}.onnx" for name in programs), data, "schedule.json"]
    assert report.size_bytes == sum(path.stat().st_size for path in report.path.iterdir())


def test_the_weights_are_those_of_the_full_model_and_lie_there_once(exported: Callable[[str], Export]) -> None:
    for spec in (UNIFORM, LINEAR, THRESHOLD):
        result, report = exported(spec)
        data = next(path for path in report.files if path.suffix == ".data")
        full = initializers(report.path / "full.onnx")
        stored = {name: place(tensor) for name, tensor in full.items() if tensor.external_data}
        weights = result.program.parameters
        turned = {f"{name}.transposed" for name in weights}
        assert set(stored) <= set(weights) | turned
        assert data.stat().st_size == sum(int(entry["length"]) for entry in stored.values())
        assert data.stat().st_size == sum(tensor.nbytes for tensor in weights.values())
        for part in report.programs.values():
            found = {name: place(tensor) for name, tensor in initializers(part.path).items() if tensor.external_data}
            assert found.items() <= stored.items()
            assert {entry["location"] for entry in found.values()} <= {data.name}


def test_a_cached_file_has_only_the_weights_that_it_needs(exported: Callable[[str], Export]) -> None:
    _, report = exported(UNIFORM)
    found = {name.removesuffix(".transposed") for name in initializers(report.path / "cached.onnx")}
    named = {name for name in found if not name.startswith("constant.")}
    assert named == {f"{module}.{kind}" for module in ("first", "second", "head") for kind in ("weight", "bias")}
    tail = initializers(exported(THRESHOLD)[1].path / "tail-cached.onnx")
    assert {name.removesuffix(".transposed") for name in tail if not name.startswith("constant.")} == {
        "head.weight",
        "head.bias",
    }


def test_a_name_means_the_same_values_in_all_files(exported: Callable[[str], Export]) -> None:
    known: dict[str, bytes] = {}
    for part in exported(THRESHOLD)[1].programs.values():
        for tensor in onnx.load(part.path).graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            assert known.setdefault(tensor.name, array.tobytes()) == array.tobytes()


def test_slots_go_in_and_out_under_their_names(exported: Callable[[str], Export]) -> None:
    _, report = exported(LINEAR)
    ports = {name: (part.inputs, part.outputs) for name, part in report.programs.items()}
    own = ("sample", "timestep")
    assert ports == {
        "full": ((*own, "extra_bias"), ("output_0", "cache_out.cache_0")),
        "refresh": (
            (*own, "extra_bias", "cache_in.cache_0", "cache_elapsed", "cache_updates"),
            ("output_0", "cache_out.cache_0", "cache_out.cache_0_d1"),
        ),
        "cached": ((*own, "cache_in.cache_0", "cache_in.cache_0_d1", "cache_elapsed"), ("output_0",)),
    }
    for part in report.programs.values():
        graph = onnx.load(part.path, load_external_data=False).graph
        assert [value.name for value in graph.input] == list(part.inputs)
        assert [value.name for value in graph.output] == list(part.outputs)


def test_the_schedule_is_written_with_what_a_runtime_needs(exported: Callable[[str], Export]) -> None:
    result, report = exported(UNIFORM)
    content = json.loads((report.path / "schedule.json").read_text(encoding="utf-8"))
    assert Schedule.from_dict(content["schedule"]) == result.schedule
    assert content["programs"]["cached"] == {
        "file": "cached.onnx",
        "inputs": ["sample", "timestep", "cache_in.cache_0"],
        "outputs": ["output_0"],
        "unread": ["extra_bias", "unused"],
    }
    assert result.plan is not None
    plan = json.dumps(result.plan.to_dict(), sort_keys=True, separators=(",", ":"))
    assert content["origin"]["graphopt.plan_sha256"] == hashlib.sha256(plan.encode()).hexdigest()
    assert (content["opset"], report.opset) == (20, 20)
    assert content["returns"] == {"tuple": [{"tensor": "output_0"}, {"fixed": {"value": None}}]}
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in report.files[:-1]}
    assert {name: entry["sha256"] for name, entry in content["files"].items()} == sums


def test_every_program_was_compared_at_three_batch_sizes(exported: Callable[[str], Export]) -> None:
    _, report = exported(THRESHOLD)
    assert report.batch_sizes == (2, 3, 1)
    assert {name: {error.batch_size for error in part.errors} for name, part in report.programs.items()} == {
        name: {1, 2, 3} for name in ("full", "probe", "tail-full", "tail-cached")
    }
    assert all(error.relative < 1e-5 for error in report.errors)


def test_a_file_that_computes_something_else_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stale values are what a cache gets wrong: here every file reads the slots of the first batch."""
    run = onnx_steps_check.run_session

    def stale(opened: object, feeds: dict[str, torch.Tensor]) -> list[np.ndarray]:
        slots = {name: value * 0 for name, value in feeds.items() if name.startswith("cache_in.")}
        return run(opened, {**feeds, **slots})

    monkeypatch.setattr(onnx_steps_check, "run_session", stale)
    with pytest.raises(ExportError, match="ONNX Runtime and torch differ in the program cached:\n  output_0 at batch"):
        export_onnx(cached_result(UNIFORM), tmp_path / "out")
    assert names(tmp_path) == []


def test_a_new_export_replaces_the_old_one_and_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    export_onnx(cached_result(THRESHOLD), tmp_path, verify=False)
    before = names(tmp_path)
    result = cached_result(UNIFORM)
    weight = result.program.parameters["first.weight"]
    weight.data = weight.data * 2
    report = export_onnx(result, tmp_path, verify=False)
    assert (tmp_path / "probe.onnx").name in before
    assert names(tmp_path) == sorted(["notes.txt", *(path.name for path in report.files)])
    assert len([name for name in names(tmp_path) if name.endswith(".data")]) == 1


def test_a_saved_result_takes_the_files_in(tmp_path: Path) -> None:
    result = cached_result(UNIFORM)
    save_result(result, tmp_path / "out")
    saved = names(tmp_path / "out")
    report = export_onnx(result, tmp_path / "out", verify=False)
    check_manifest(tmp_path / "out")
    assert names(tmp_path / "out") == sorted({*saved, *(path.name for path in report.files)})
    again = export_onnx(result, tmp_path / "out", verify=False)
    assert names(tmp_path / "out") == sorted({*saved, *(path.name for path in again.files)})
    with pytest.raises(ExportError, match=r"plan\.json is of another result"):
        export_onnx(cached_result(THRESHOLD), tmp_path / "out", verify=False)


def test_paths_and_options_that_do_not_fit(tmp_path: Path) -> None:
    result = cached_result(UNIFORM)
    with pytest.raises(ExportError, match=r"the programs full, cached, each with a file of its own: name a folder, or"):
        export_onnx(result, tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="external_data=False puts the weights into every file"):
        export_onnx(result, tmp_path / "out", external_data=False)
    with pytest.raises(ExportError, match="and the schedule has the programs full, probe, tail-full, tail-cached"):
        export_onnx(cached_result(THRESHOLD), tmp_path / "a.onnx", single_file=True)
    with pytest.raises(ExportError, match="and the schedule has the programs full, refresh, cached"):
        export_onnx(cached_result(LINEAR), tmp_path / "a.onnx", single_file=True)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ExportError, match="is a file where a folder was to be written"):
        export_onnx(result, tmp_path / "file")
    assert names(tmp_path) == ["file"]


def test_both_programs_in_one_file(tmp_path: Path) -> None:
    result = cached_result(UNIFORM)
    report = export_onnx(result, tmp_path / "a.onnx", single_file=True)
    assert report.inputs == ("use_cache", "sample", "timestep", "extra_bias", "cache_in.cache_0")
    assert report.outputs == ("output_0", "cache_out.cache_0")
    assert report.batch_sizes == (2, 3, 1)
    weights = {name.removesuffix(".transposed") for name in initializers(report.path)}
    assert {name for name in weights if not name.startswith("constant.")} == set(result.program.parameters)
    graph = onnx.load(report.path).graph
    assert [node.op_type for node in graph.node] == ["If"]
    branches = {attribute.name: attribute.g for attribute in graph.node[0].attribute}
    assert [len(branch.initializer) for branch in branches.values()] == [0, 0]

    (sample, timestep), kwargs = call(batch=5)
    feeds = {"sample": sample, "timestep": timestep, "extra_bias": kwargs["extra"]["bias"]}
    kept = torch.zeros(5, 8)
    full, filled = run_onnx(report.path, {**feeds, "use_cache": torch.tensor(False), "cache_in.cache_0": kept})
    wanted, slots = result.programs["full"](sample, timestep, **kwargs)
    np.testing.assert_allclose(full, wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(filled, slots["cache_0"], rtol=1e-4, atol=1e-5)
    other = torch.from_numpy(filled) + 1
    cached, handed = run_onnx(report.path, {**feeds, "use_cache": torch.tensor(True), "cache_in.cache_0": other})
    wanted, _ = result.programs["cached"](sample, timestep, **kwargs, cache_0=other)
    np.testing.assert_allclose(cached, wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(handed, other)


def test_a_result_without_a_schedule_is_one_file_as_ever(tmp_path: Path) -> None:
    result = cached_result(UNIFORM)
    report = export_onnx(replace(result, schedule=None), tmp_path / "a.onnx", verify=False)
    assert (names(tmp_path), report.programs) == (["a.onnx"], {})
    assert report.outputs == ("output_0",)
