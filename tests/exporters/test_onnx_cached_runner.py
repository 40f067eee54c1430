"""OnnxCachedDenoiser: plays what was exported as a session of torch does."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from exporters.cached_results import LINEAR, TABLE, THRESHOLD, UNIFORM, cached_result, call, denoiser

import graphopt
from graphopt.errors import GraphoptError, PlanError
from graphopt.exporters import OnnxCachedDenoiser
from graphopt.exporters.onnx import export_onnx
from graphopt.runtime.session import CacheSession

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a full and a cached program; read by many tests, changed by none."""
    path = tmp_path_factory.mktemp("onnx") / "out"
    export_onnx(cached_result(UNIFORM), path, verify=False)
    return path


def play(session: Any, steps: int = STEPS, batch: int = 2) -> list[torch.Tensor]:
    outputs = []
    for step in range(steps):
        args, kwargs = call(step, batch)
        outputs.append(session(*args, **kwargs)[0])
    return outputs


@pytest.mark.parametrize("spec", [UNIFORM, LINEAR, THRESHOLD, TABLE, f"{THRESHOLD},hoist-invariants"])
def test_outputs_and_decisions_are_those_of_a_session_of_torch(spec: str, tmp_path: Path) -> None:
    result = cached_result(spec)
    export_onnx(result, tmp_path / "out", verify=False)
    runner, session = OnnxCachedDenoiser(tmp_path / "out"), CacheSession(result)
    for output, expected in zip(play(runner), play(session), strict=True):
        assert float((output - expected).abs().max() / expected.abs().max()) < 1e-4
    assert [(one.step, one.program, one.reason) for one in runner.decisions] == [
        (one.step, one.program, one.reason) for one in session.decisions
    ]
    assert len({one.program for one in runner.decisions}) > 1
    for found, wanted in zip(runner.decisions, session.decisions, strict=True):
        assert found.distance == (None if wanted.distance is None else pytest.approx(wanted.distance, rel=1e-4))
    assert runner.cache_bytes == session.cache_bytes > 0


def test_what_a_step_keeps_is_bound_where_it_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came, went = [], []
    bind, outputs = onnxruntime.IOBinding.bind_input, onnxruntime.IOBinding.get_outputs

    def bound(self: Any, name: str, *rest: Any) -> None:
        if name == "cache_in.cache_0":
            went.append(rest[-1])
        bind(self, name, *rest)

    def returned(self: Any) -> Any:
        values = outputs(self)
        came.append([value.data_ptr() for value in values])
        return values

    monkeypatch.setattr(onnxruntime.IOBinding, "bind_input", bound)
    monkeypatch.setattr(onnxruntime.IOBinding, "get_outputs", returned)
    play(OnnxCachedDenoiser(folder), steps=3)
    assert [len(pointers) for pointers in came] == [2, 1, 1]
    assert went == [came[0][1], came[0][1]]


def test_reset_branches_and_steps(folder: Path) -> None:
    runner = OnnxCachedDenoiser(folder)
    play(runner, 2)
    with runner.branch("uncond"):
        play(runner, 1)
    runner.step = 5
    play(runner, 1)
    play(runner, 1, batch=3)
    assert [(one.branch, one.step, one.program) for one in runner.decisions] == [
        ("", 0, "full"),
        ("", 1, "cached"),
        ("uncond", 0, "full"),
        ("", 5, "full"),
        ("", 6, "full"),
    ]
    assert runner.decisions[-1].reason == "inputs of another shape, dtype or device"
    runner.reset()
    assert (runner.decisions, runner.cache_bytes, runner.step) == ([], 0, 0)


def test_arrays_give_arrays(folder: Path) -> None:
    args, kwargs = call()
    wanted = OnnxCachedDenoiser(folder)(*args, **kwargs)[0]
    arrays = {"extra": {"bias": kwargs["extra"]["bias"].numpy()}, "unused": np.zeros((2, 1), np.float32)}
    found = OnnxCachedDenoiser(folder)(args[0].numpy(), args[1].numpy(), **arrays)[0]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, wanted)


def test_arguments_by_name_numbers_and_nothing(folder: Path) -> None:
    (sample, timestep), kwargs = call()
    wanted = OnnxCachedDenoiser(folder)(sample, timestep, **kwargs)[0]
    found = OnnxCachedDenoiser(folder)(timestep=900, sample=sample, other=None, **kwargs)
    assert torch.equal(found[0], wanted)
    assert found[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": None}, "the input sample is missing; the files were made for a call that gives it"),
        ({"extra": {}}, "the input extra.bias is missing"),
        ({"extra": 3}, "the argument extra is 3, wanted a dict with bias"),
        ({"return_dict": True}, "the argument return_dict is True, and the files hold False"),
        ({"control": torch.zeros(2, 8)}, r"the argument control is a tensor of shape \[2, 8\], and the files know no"),
        (
            {"sample": torch.zeros(2, 9)},
            r"the input sample is torch.float32 \[2, 9\], and the files take torch.float32",
        ),
        ({"sample": torch.zeros(2, 8).double()}, r"the input sample is torch.float64 \[2, 8\]"),
    ],
)
def test_arguments_that_do_not_fit(folder: Path, change: dict[str, Any], message: str) -> None:
    (sample, timestep), kwargs = call()
    with pytest.raises(GraphoptError, match=message):
        OnnxCachedDenoiser(folder)(**{"sample": sample, "timestep": timestep, **kwargs, **change})
    with pytest.raises(GraphoptError, match=r"found 3 arguments by place, wanted at most 2 \(sample, timestep\)"):
        OnnxCachedDenoiser(folder)(sample, timestep, sample)


def test_an_output_with_named_fields(tmp_path: Path) -> None:
    args, kwargs = call()
    program = graphopt.capture(denoiser(), args, {**kwargs, "return_dict": True})
    result = graphopt.Pipeline(UNIFORM).run(program)
    export_onnx(result, tmp_path / "out", verify=False)
    found = OnnxCachedDenoiser(tmp_path / "out")(*args, **kwargs | {"return_dict": True})
    wanted = program(*args, **kwargs | {"return_dict": True})
    assert list(found) == ["sample"]
    np.testing.assert_allclose(found["sample"], wanted["sample"], rtol=1e-4, atol=1e-6)


def test_other_attributes_are_the_models(folder: Path) -> None:
    runner = OnnxCachedDenoiser(folder)
    assert (runner.dtype, runner.device) == (torch.float32, torch.device("cpu"))
    with pytest.raises(AttributeError, match="the denoiser has no config; give it a model="):
        _ = runner.config
    with pytest.raises(AttributeError, match="the denoiser has no in_channels; give it a model="):
        _ = runner.in_channels
    config = SimpleNamespace(in_channels=4)
    runner = OnnxCachedDenoiser(folder, config=config, model=denoiser())
    assert (runner.config, runner.in_channels, runner.head.in_features) == (config, 4, 8)


def test_a_scheduler_tells_generations_and_branches(folder: Path) -> None:
    scheduler = SimpleNamespace(timesteps=torch.arange(0))
    runner = OnnxCachedDenoiser(folder, scheduler=lambda: scheduler)
    (sample, _), kwargs = call()
    for _ in range(2):
        scheduler.timesteps = torch.arange(900, 860, -10)
        for timestep in scheduler.timesteps:
            runner(sample, timestep, **kwargs)
            runner(-sample, timestep, **kwargs)
        programs = [(one.branch, one.program) for one in runner.decisions]
        pairs = [("full", "full"), ("cached", "cached"), ("cached", "cached"), ("full", "full")]
        assert programs == [(branch, name) for pair in pairs for branch, name in zip(("", "1"), pair, strict=True)]


def test_a_hoisted_schedule_is_told_the_timesteps(tmp_path: Path) -> None:
    result = cached_result(f"{THRESHOLD},hoist-invariants")
    assert result.schedule is not None
    assert result.schedule.timestep is not None
    export_onnx(result, tmp_path / "out", verify=False)
    scheduler = SimpleNamespace(timesteps=torch.arange(900, 860, -10))
    runner, untold = OnnxCachedDenoiser(tmp_path / "out", scheduler=scheduler), OnnxCachedDenoiser(tmp_path / "out")
    (sample, _), kwargs = call()
    for timestep in scheduler.timesteps:
        assert torch.equal(runner(sample, timestep, **kwargs)[0], untold(sample, timestep, **kwargs)[0])
    assert runner._session._timesteps == [900, 890, 880, 870]


def test_folders_that_are_none_and_damaged_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"schedule\.json cannot be read .*wanted a folder that export_onnx wrote"):
        OnnxCachedDenoiser(tmp_path)
    for name, content, message in [
        ("schedule.json", b"{", r"schedule\.json is damaged"),
        ("schedule.json", b'{"version": 7}', "is no schedule of version 1"),
        ("schedule.json", b'{"version": 1}', r"schedule\.json is damaged \(KeyError"),
        ("cached.onnx", b"", r"cached\.onnx has 0 bytes where"),
        ("cached.onnx", None, r"cached\.onnx cannot be read"),
    ]:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
        with pytest.raises(PlanError, match=message):
            OnnxCachedDenoiser(copy)
        shutil.rmtree(copy)


def test_weights_that_were_changed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    data = next((tmp_path / "copy").glob("*.data"))
    data.write_bytes(bytes(len(data.read_bytes())))
    with pytest.raises(PlanError, match=r"\.data was changed after it was written"):
        OnnxCachedDenoiser(tmp_path / "copy")


def test_a_schedule_whose_programs_have_no_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "schedule.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["programs"]["cached"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PlanError, match="it does not list all its files"):
        OnnxCachedDenoiser(tmp_path / "copy")
