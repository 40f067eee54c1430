import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exporters.partitioned import in_parts, partitioned

import graphopt
from graphopt.cli.targets import Target
from graphopt.cli.user_code import build_model
from graphopt.exporters.runtime import run_onnx

Run = Callable[..., Any]

pytest.importorskip("onnxruntime")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of the project: the model, and the result beside it."""
    shutil.copytree(saved.parent, tmp_path / "project")
    return tmp_path / "project" / "out"


def test_the_file_joins_the_result_and_computes_the_same(run: Run, copied: Path) -> None:
    outcome = run("export", str(copied), "--onnx", "--opset", "18", "--json")
    document = json.loads(outcome.out)
    built = build_model(Target(str(copied.parent / "net_model.py"), "build"))
    expected = graphopt.load(copied, model=built.model).module()(*built.args)
    found = torch.from_numpy(run_onnx(copied / "model.onnx", built.args)[0])
    assert (outcome.code, document["path"], document["opset"]) == (0, str(copied / "model.onnx"), 18)
    assert (document["inputs"], document["dynamic_batch"]) == (["x"], True)
    assert all(error["relative"] < 1e-5 for error in document["errors"])
    assert torch.allclose(found, expected, atol=1e-5)
    # The result stays whole: it can be read, measured and exported again.
    assert "origin.json" in json.loads((copied / "manifest.json").read_text(encoding="utf-8"))["files"]


def test_a_partitioned_result_gets_a_file_for_each_device(
    run: Run, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"{copied.parent / 'net_model.py'}:build"
    loaded = graphopt.load(copied, model=build_model(Target.parse(target)).model)
    parts = partitioned(loaded.program, in_parts(loaded.program, 2))
    replace(loaded, plan=replace(loaded.plan, partition=parts.partition)).save(copied)
    capsys.readouterr()  # what the model said while it was built here
    outcome = run("export", str(copied), "--onnx", "--model", target, "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, sorted(document["programs"])) == (0, ["sync/0.0", "sync/1.0"])
    assert sorted(Path(file).name for file in document["files"]) == ["stage.0.onnx", "stage.1.onnx", "stages.json"]
    assert all((copied / name).is_file() for name in ("stage.0.onnx", "stage.1.onnx", "stages/1.json", "plan.json"))
    assert document["inputs"] == ["x"]
    assert all(error["relative"] < 1e-5 for error in document["errors"])


def test_a_model_that_has_moved(run: Run, copied: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    (copied.parent / "net_model.py").rename(copied.parent / "net_moved.py")
    lost = run("export", str(copied))
    model = f"{copied.parent / 'net_moved.py'}:build"
    told = run("export", str(copied), "--model", model, "--to", str(file), "--no-verify")
    assert (lost.code, told.code, told.err, file.exists()) == (1, 0, "", True)
    assert "largest error not compared" in " ".join(told.out.split())
    assert lost.err == (
        f"error: the model of {copied} was built by build in {copied.parent / 'net_model.py'}, which is not there; "
        "tell where the model is built: --model my_model.py:build\n"
    )


def test_the_model_of_another_plan(run: Run, saved: Path) -> None:
    outcome = run("export", str(saved), "--model", f"{saved.parent / 'net_model.py'}:build_other")
    assert outcome.code == 1
    assert "down.weight is [4, 32] in the plan's model and [5, 32] in this one" in outcome.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not say where its model is built; tell where the model is built: --model my_model.py:build"),
        ("{", "origin.json is damaged"),
        ("[]", "origin.json is damaged"),
        ('{"place": "../net_model.py"}', "origin.json is damaged (KeyError('name'))"),
    ],
)
def test_an_origin_that_cannot_be_read(run: Run, copied: Path, content: str | None, message: str) -> None:
    (copied / "origin.json").unlink()
    if content is not None:
        (copied / "origin.json").write_text(content, encoding="utf-8")
    outcome = run("export", str(copied))
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert message in outcome.err


@pytest.mark.parametrize("command", ["export", "bench"])
def test_a_folder_that_is_no_result(run: Run, tmp_path: Path, command: str) -> None:
    outcome = run(command, str(tmp_path))
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {tmp_path} is no saved result: it has no plan.json; make one with graphopt")


def test_a_damaged_result(run: Run, copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    outcome = run("export", str(copied))
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert f"{weights} has" in outcome.err


def test_an_opset_from_the_future(run: Run, saved: Path) -> None:
    outcome = run("export", str(saved), "--opset", "999")
    assert outcome.code == 1
    assert outcome.err.startswith("error: opset 999 is unknown to the installed onnx")
    assert not (saved / "model.onnx").exists()
