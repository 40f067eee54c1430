import hashlib
import json
import logging
import os
import resource
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from exporters.results import Small, inputs, pruned_result, small_program
from torch import nn

from graphopt.errors import ExportError, MissingExtraError
from graphopt.exporters import onnx_check
from graphopt.exporters.manifest import check_manifest
from graphopt.exporters.onnx import OnnxReport, export_onnx
from graphopt.exporters.onnx_model import OnnxModel, build_onnx
from graphopt.exporters.runtime import run_onnx
from graphopt.exporters.weights import load, save_result
from graphopt.pass_manager.result import Result
from graphopt.tracing import capture


@dataclass(frozen=True)
class Exported:
    result: Result
    report: OnnxReport
    built: OnnxModel

    @property
    def model(self) -> Any:
        return onnx.load(self.report.path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export the small pruned result once; read by many tests, changed by none."""
    result = pruned_result()
    built = []

    def build(*arguments: Any) -> OnnxModel:
        built.append(build_onnx(*arguments))
        return built[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphopt.exporters.onnx.build_onnx", build)
        report = export_onnx(result, tmp_path_factory.mktemp("onnx") / "out")
    return Exported(result, report, built[0])


@pytest.fixture
def prebuilt(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Let the exporter write the same model again without converting the program again."""
    monkeypatch.setattr("graphopt.exporters.onnx.build_onnx", lambda *arguments: exported.built)
    return exported.result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def torch_outputs(result: Result, batch: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    args, kwargs = inputs(batch)
    found = result.program(*args, **kwargs)
    return [args[0], kwargs["extra"]["bias"]], [found["sum"], found["extra"]]


def test_inputs_outputs_and_weights_have_the_users_names(exported: Exported) -> None:
    graph = exported.model.graph
    assert [node.name for node in graph.input] == list(exported.report.inputs) == ["x", "extra_bias"]
    assert [node.name for node in graph.output] == list(exported.report.outputs) == ["sum", "extra"]
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer if tensor.dims}
    wanted = {name: list(tensor.shape) for name, tensor in exported.result.program.parameters.items()}
    assert weights.items() <= wanted.items()
    assert set(wanted) - set(weights) == {"again.weight"} or set(wanted) - set(weights) == {"second.weight"}


def test_the_batch_is_free_and_called_so(exported: Exported) -> None:
    shapes = [
        [size.dim_param or size.dim_value for size in node.type.tensor_type.shape.dim]
        for node in (*exported.model.graph.input, *exported.model.graph.output)
    ]
    assert shapes == [["batch", 8]] * 4
    assert exported.report.dynamic_batch is True


def test_the_report_tells_what_was_measured(exported: Exported) -> None:
    report = exported.report
    assert (report.batch_sizes, report.opset, report.notes) == ((2, 3, 1), 20, ())
    assert [(error.name, error.batch_size) for error in report.errors] == [
        (name, size) for size in (2, 3, 1) for name in ("sum", "extra")
    ]
    assert all(error.passed and error.relative < 1e-6 and error.tolerance == 1e-4 for error in report.errors)
    assert report.files == (report.path,)
    assert report.size_bytes == report.path.stat().st_size
    assert (report.path.name, report.operators) == ("model.onnx", len(exported.model.graph.node))
    assert exported.model.opset_import[0].version == 20


def test_other_batch_sizes_run(exported: Exported) -> None:
    for batch in (1, 7):
        feeds, wanted = torch_outputs(exported.result, batch)
        found = run_onnx(exported.report.path, feeds)
        assert [np.allclose(left, right.detach(), atol=1e-5) for left, right in zip(found, wanted, strict=True)] == [
            True,
            True,
        ]


def test_the_file_says_what_made_it_and_holds_no_paths(exported: Exported) -> None:
    properties = {entry.key: entry.value for entry in exported.model.metadata_props}
    plan = json.dumps(exported.result.plan.to_dict(), sort_keys=True, separators=(",", ":"))
    assert properties == {
        "graphopt.version": "0.1.0",
        "graphopt.source_class": "Small",
        "graphopt.source_fingerprint": exported.result.program.source.fingerprint,
        "graphopt.plan_sha256": hashlib.sha256(plan.encode()).hexdigest(),
    }
    content = exported.report.path.read_bytes()
    assert [
        word for word in (b"pkg.torch", b".py", str(Path.cwd()).encode(), b"site-packages") if word in content
    ] == []


def test_the_same_program_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again = export_onnx(exported.result, tmp_path / "again.onnx", verify=False)
    assert again.path.read_bytes() == exported.report.path.read_bytes()
    assert (again.batch_sizes, again.errors) == ((), ())


def test_the_opset_is_read_back_and_the_screen_stays_empty(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="onnxscript"):
        report = export_onnx(small_program(), tmp_path / "a.onnx", opset=13)
    assert (report.opset, report.notes) == (18, ("opset 13 was asked for and opset 18 was written",))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith(("onnx", "torch.onnx"))] == []
    assert logging.root.manager.disable == logging.NOTSET


def test_opsets_that_do_not_exist(exported: Exported, tmp_path: Path) -> None:
    for opset in (0, 99):
        with pytest.raises(ExportError, match=f"opset {opset} is unknown to the installed onnx"):
            export_onnx(exported.result, tmp_path / "a.onnx", opset=opset)


def test_a_fixed_batch(exported: Exported, tmp_path: Path) -> None:
    report = export_onnx(exported.result, tmp_path / "a.onnx", dynamic=False)
    assert (report.dynamic_batch, report.batch_sizes, {error.batch_size for error in report.errors}) == (
        False,
        (),
        {None},
    )
    assert [size.dim_value for size in onnx.load(report.path).graph.input[0].type.tensor_type.shape.dim] == [2, 8]


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x


def test_a_program_with_a_static_batch_says_why(tmp_path: Path) -> None:
    program = capture(Square(), (torch.randn(3, 3),))
    report = export_onnx(program, tmp_path / "a.onnx")
    assert (report.dynamic_batch, report.notes) == (False, program.notes)
    assert program.notes[0].startswith("static batch")


class Odd(nn.Module):
    """Whatever confuses names and outputs: a parameter called like an output, numbers and inputs among the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.pair_0 = nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor, *, mask: torch.Tensor, scale: float, unused: torch.Tensor) -> dict[str, Any]:
        y = self.linear(x) + self.pair_0
        with torch.no_grad():
            gate = y.sigmoid() * scale
        with torch.autocast("cpu", enabled=False):
            gated = gate.float() * torch.arange(8.0)
        return {"x": x, "y": gated * mask, "n": 3, "none": None, "pair": [gate, gate], "best": gated.argmax(-1)}


def test_odd_inputs_and_outputs(tmp_path: Path) -> None:
    kwargs = {"mask": torch.rand(3, 8), "scale": 0.5, "unused": torch.randn(3, 1)}
    model = Odd()
    before = {name: (tensor.clone(), tensor._version) for name, tensor in model.state_dict().items()}
    report = export_onnx(capture(model, (torch.randn(3, 8),), kwargs), os.fspath(tmp_path / "a.onnx"), opset=23)
    assert report.inputs == ("x", "mask", "unused")
    assert report.outputs == ("out_x", "y", "out_pair_0", "pair_1", "best")
    assert report.notes == (
        "the input 'scale' is no tensor; it is fixed at 0.5",
        "2 outputs are no tensors and are not in the file",
    )
    assert {error.name: error.tolerance for error in report.errors}["best"] == 0.0
    assert report.opset == 23
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor._version == before[name][1]


def test_a_model_that_returns_no_tensor(tmp_path: Path) -> None:
    class Count(nn.Module):
        def forward(self, x: torch.Tensor) -> int:
            return 3

    with pytest.raises(ExportError, match="returns no tensor"):
        export_onnx(capture(Count(), (torch.randn(2, 3),)), tmp_path / "a.onnx")
    assert names(tmp_path) == []


def test_outputs_that_differ_stop_the_export(prebuilt: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = onnx_check.run_session
    monkeypatch.setattr(onnx_check, "run_session", lambda *call: [array * 1.01 for array in run(*call)])
    (tmp_path / "a.onnx").write_text("old")
    for target in ("a.onnx", "b.onnx", "folder"):
        with pytest.raises(
            ExportError, match=r"ONNX Runtime and torch differ:\n  sum at batch size 2: relative error 0\.01"
        ):
            export_onnx(prebuilt, tmp_path / target)
    assert (names(tmp_path), (tmp_path / "a.onnx").read_text()) == (["a.onnx"], "old")
    assert export_onnx(prebuilt, tmp_path / "a.onnx", tolerance=0.02).errors[0].tolerance == 0.02


def test_a_difference_at_batch_one_alone_is_noted(
    prebuilt: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = onnx_check.run_session

    def wrong_alone(opened: Any, feeds: dict[str, torch.Tensor]) -> list[np.ndarray]:
        return [array + (len(array) == 1) for array in run(opened, feeds)]

    monkeypatch.setattr(onnx_check, "run_session", wrong_alone)
    report = export_onnx(prebuilt, tmp_path / "a.onnx")
    assert report.batch_sizes == (2, 3)
    assert report.notes[0].startswith("a batch of 1 does not work (ONNX Runtime and torch differ")


def test_a_folder_of_others_keeps_their_files(prebuilt: Result, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    report = export_onnx(prebuilt, tmp_path)
    assert (names(tmp_path), report.path) == (["mine.txt", "model.onnx"], tmp_path / "model.onnx")


def test_weights_in_a_file_of_their_own(prebuilt: Result, exported: Exported, tmp_path: Path) -> None:
    report = export_onnx(prebuilt, tmp_path / "a.onnx", external_data=True)
    data = report.files[1].name
    assert (names(tmp_path), data.startswith("a.onnx."), data.endswith(".data")) == (["a.onnx", data], True, True)
    feeds, wanted = torch_outputs(prebuilt, 4)
    assert np.allclose(run_onnx(report.path, feeds)[0], wanted[0].detach(), atol=1e-5)
    assert report.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_new_weights_replace_the_old_ones(prebuilt: Result, exported: Exported, tmp_path: Path) -> None:
    first = export_onnx(prebuilt, tmp_path / "a.onnx", external_data=True)
    (tmp_path / "b.onnx.0123456789abcdef.data").write_text("of b.onnx")
    weight = exported.built.model.graph.initializers["first.weight"]
    before, weight.const_value = weight.const_value, onnx_ir.tensor(np.ones((12, 8), dtype=np.float32))
    second = export_onnx(prebuilt, tmp_path / "a.onnx", external_data=True, verify=False)
    weight.const_value = before
    assert second.files[1].name != first.files[1].name
    assert names(tmp_path) == ["a.onnx", second.files[1].name, "b.onnx.0123456789abcdef.data"]


def test_large_weights_leave_the_file_by_themselves(
    prebuilt: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.exporters.onnx_files.INLINE_LIMIT_BYTES", 900)
    assert len(export_onnx(prebuilt, tmp_path / "a").files) == 2
    monkeypatch.setattr("graphopt.exporters.onnx_files.INLINE_LIMIT_BYTES", 100)
    with pytest.raises(ExportError, match="do not fit into an ONNX file; pass external_data=True"):
        export_onnx(prebuilt, tmp_path / "b", external_data=False)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("external_data", [False, True])
def test_onnx_joins_a_saved_result(prebuilt: Result, tmp_path: Path, external_data: bool) -> None:
    save_result(prebuilt, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for _ in range(2):
        report = export_onnx(prebuilt, tmp_path / "out", external_data=external_data)
    files = [path.name for path in report.files]
    assert names(tmp_path / "out") == sorted([*before, *files])
    check_manifest(tmp_path / "out")
    assert set(json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]) == {*before, *files} - {
        "manifest.json"
    }
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    assert load(tmp_path / "out", Small()).program.parameters.keys() == prebuilt.program.parameters.keys()
    save_result(prebuilt, tmp_path / "out")
    assert names(tmp_path / "out") == sorted(before)


def test_the_result_of_another_plan_is_left_alone(prebuilt: Result, tmp_path: Path) -> None:
    save_result(prebuilt, tmp_path / "out")
    before = names(tmp_path / "out")
    other = replace(prebuilt, plan=replace(prebuilt.plan, passes=("other",)))
    with pytest.raises(ExportError, match=r"plan\.json is of another result"):
        export_onnx(other, tmp_path / "out")
    assert names(tmp_path / "out") == before


def test_a_missing_folder_is_named_before_the_work_starts(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.exporters.onnx.build_onnx", None)
    program = exported.result.program
    for target in ("no/a.onnx", "no/out"):
        with pytest.raises(ExportError, match="does not exist; create it first"):
            export_onnx(program, tmp_path / target)


@pytest.mark.parametrize("external_data", [False, True])
def test_a_full_disk_leaves_the_old_file(prebuilt: Result, tmp_path: Path, external_data: bool) -> None:
    (tmp_path / "a.onnx").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(ExportError, match="File too large"):
            export_onnx(prebuilt, tmp_path / "a.onnx", external_data=external_data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (names(tmp_path), (tmp_path / "a.onnx").read_text()) == (["a.onnx"], "old")


def test_what_onnx_runtime_cannot_run_is_written_without_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = capture(nn.Linear(4, 4).bfloat16(), (torch.randn(2, 4, dtype=torch.bfloat16),))
    built = build_onnx(program, 20, True, {})
    monkeypatch.setattr("graphopt.exporters.onnx.build_onnx", lambda *arguments: built)
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot load a\.onnx: .*another opset or float32 may help"):
        export_onnx(program, tmp_path / "a.onnx")
    assert names(tmp_path) == []
    assert export_onnx(program, tmp_path / "a.onnx", verify=False).files == (tmp_path / "a.onnx",)


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x)


def test_an_operator_that_onnx_lacks(tmp_path: Path) -> None:
    program = capture(Unknown(), (torch.eye(3).expand(2, 3, 3).contiguous(),))
    with pytest.raises(ExportError, match=r"torch\.onnx cannot convert the program at opset 20: .*eigh"):
        export_onnx(program, tmp_path / "a.onnx")
    assert names(tmp_path) == []


def test_half_precision_has_its_own_tolerance(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4)).half()
    report = export_onnx(capture(model, (torch.randn(2, 16).half(),)), tmp_path / "a.onnx")
    assert {error.tolerance for error in report.errors} == {2e-2}
    assert 0 < max(error.relative for error in report.errors) < 5e-3


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 5)
    with pytest.raises(ExportError, match=r"'weight' and 1 other tensors have no values"):
        export_onnx(capture(model, (torch.randn(2, 4),)), tmp_path / "a.onnx")


def test_the_missing_extra_is_named(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"graphopt\[onnx\]"):
        export_onnx(exported.result, tmp_path / "a.onnx")


def test_an_export_beside_the_users_plan_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("mine")
    export_onnx(small_program(), tmp_path)
    assert (tmp_path / "plan.json").read_text() == "mine"


def test_a_file_in_a_saved_result_joins_it(tmp_path: Path) -> None:
    result = pruned_result()
    result.save(tmp_path / "out")
    export_onnx(result, tmp_path / "out" / "other.onnx")
    assert "other.onnx" in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    result.save(tmp_path / "out")
    assert not (tmp_path / "out" / "other.onnx").exists()
