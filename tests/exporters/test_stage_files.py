import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exporters.partitioned import Chain, chain, chain_inputs, in_parts, partitioned, run_stages
from safetensors.torch import load_file
from torch import fx, nn

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.manifest import write_manifest
from graphopt.exporters.stage_files import describe_stages, device_bytes, load_device
from graphopt.exporters.weights import load, load_tensors, save_result
from graphopt.pass_manager.result import Result
from graphopt.program import Program
from graphopt.stages import Mode
from graphopt.tracing import capture

MODES: list[tuple[Mode, int, int]] = [("pipeline", 2, 1), ("pipeline", 3, 2), ("cfg", 2, 1), ("async", 2, 1)]
"""Mode, stages, micro-batches."""


@pytest.fixture(scope="module")
def program() -> Program:
    return chain()


@pytest.fixture(scope="module")
def result(program: Program) -> Result:
    return partitioned(program, in_parts(program, 2))


@pytest.fixture(scope="module")
def pristine(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "out"
    save_result(result, folder)
    return folder


@pytest.fixture
def saved(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "out")
    return tmp_path / "out"


def modules_of(folder: Path, devices: int) -> dict[tuple[str, str], fx.GraphModule]:
    return {key: module for device in range(devices) for key, module in load_device(folder, device).items()}


@pytest.mark.parametrize(("mode", "stages", "parts"), MODES)
def test_the_devices_together_compute_what_the_program_does(
    program: Program, tmp_path: Path, mode: Mode, stages: int, parts: int
) -> None:
    made = partitioned(program, in_parts(program, stages), mode, parts)
    save_result(made, tmp_path / "out")
    assert made.partition is not None
    modules = modules_of(tmp_path / "out", made.partition.devices)
    for phase, content in made.partition.phases.items():
        assert [key[1] for key in modules if key[0] == phase] == [
            segment.id for device in range(made.partition.devices) for segment in content.of_device(device)
        ]
    held = {("sync", key.partition("/")[2]): one.graph_module for key, one in made.stages.items() if key[:4] == "sync"}
    for batch in (4, 6):
        (sample,), kwargs = chain_inputs(batch)
        inputs = {"sample": sample, **kwargs}
        found = run_stages(made, modules, inputs)
        for one, other in zip(found, run_stages(made, held, inputs), strict=True):
            assert torch.equal(one, other)
        if parts == 1 and mode != "cfg":
            assert torch.equal(found[0], program(sample, **kwargs)["sample"])


def test_the_folder_lists_the_stages_and_keeps_the_users_names(saved: Path) -> None:
    files = json.loads((saved / "manifest.json").read_text())["files"]
    assert {name for name in files if "/" in name} == {"stages/0.json", "stages/1.json"}
    content = json.loads((saved / "stages" / "0.json").read_text())
    assert content["segments"] == [{"phase": "sync", "segment": "0.0", "graph": "sync/0.0"}]
    assert set(content["graphs"]["sync/0.0"]["tensors"].values()) == {"first.weight", "first.bias", "scale"}
    assert [name for name in load_tensors(saved) if name.startswith("stages/")] == []


def test_a_device_reads_its_own_tensors_alone(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    wanted = [("first.weight", "first.bias", "scale"), ("second", "third", "last.bias", "first.weight", "scale")]
    for device, names in enumerate(wanted):
        own = [tensor for name, tensor in weights.items() if name.startswith(names)]
        held = held_tensors(load_device(saved, device))
        assert sorted(tensor.numel() for tensor in held) == sorted(tensor.numel() for tensor in own)
        assert device_bytes(saved, device) == sum(tensor.untyped_storage().nbytes() for tensor in held)
        assert device_bytes(saved, device) == sum(tensor.nbytes for tensor in own)
    assert device_bytes(saved, 0) < sum(tensor.nbytes for tensor in weights.values())


def held_tensors(modules: dict[tuple[str, str], fx.GraphModule]) -> list[torch.Tensor]:
    """Each storage once."""
    tensors = [tensor for module in modules.values() for tensor in (*module.parameters(), *module.buffers())]
    return list({tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}.values())


def test_the_weights_of_other_devices_are_not_read(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    before = load_device(saved, 0)["sync", "0.0"].state_dict()
    third = load_file(path)["third.weight"].numpy().tobytes()
    place = bytes(content).index(third)
    content[place : place + len(third)] = bytes(len(third))
    path.write_bytes(content)
    after = load_device(saved, 0)["sync", "0.0"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not load_device(saved, 1)["sync", "1.0"].third.weight.any()
    with pytest.raises(PlanError, match=r"model\.safetensors was changed"):
        load(saved, Chain())


def test_segments_that_are_the_same_are_written_once_and_share_tensors(program: Program, tmp_path: Path) -> None:
    save_result(partitioned(program, in_parts(program, 2), "async"), tmp_path / "out")
    first, second = (load_device(tmp_path / "out", device) for device in (0, 1))
    assert first["sync", "0.0"] is first["steady", "0.0"]
    sync, steady = second["sync", "1.0"], second["steady", "1.0"]
    assert sync is not steady
    assert sync.second.weight is steady.second.weight
    assert isinstance(sync.second.weight, nn.Parameter)
    assert sync.scale.data_ptr() == steady.scale.data_ptr()
    assert list(json.loads((tmp_path / "out" / "stages" / "0.json").read_text())["graphs"]) == ["sync/0.0"]


def test_saving_again_gives_the_same_bytes(result: Result, saved: Path, tmp_path: Path) -> None:
    save_result(result, tmp_path / "again")
    for name in ("stages/0.json", "stages/1.json", "model.safetensors", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_a_fresh_model_still_loads_the_result(result: Result, saved: Path, tmp_path: Path) -> None:
    again = load(saved, Chain())
    args, kwargs = chain_inputs(4)
    assert torch.equal(again.program(*args, **kwargs)["sample"], result.program(*args, **kwargs)["sample"])
    assert again.plan == result.plan
    save_result(again, tmp_path / "again")
    assert (tmp_path / "again" / "stages" / "1.json").read_bytes() == (saved / "stages" / "1.json").read_bytes()


def test_a_result_over_another_leaves_none_of_its_stages(result: Result, saved: Path) -> None:
    assert result.plan is not None
    save_result(replace(result, plan=replace(result.plan, partition=None)), saved)
    assert not (saved / "stages").exists()
    with pytest.raises(PlanError, match="has no stages of a device 0, it has no stages"):
        load_device(saved, 0)


def test_tensors_that_the_cutting_made_get_names_of_stages(result: Result) -> None:
    assert result.partition is not None
    stages = copy.copy(result.stages)
    changed = stages["sync/1.0"].graph_module
    changed.register_buffer("scale", torch.full((8,), 3.0))
    files = describe_stages(result.partition, stages, result.program.parameters)
    assert list(files.tensors) == ["stages/sync/1.0/scale"]
    assert files.contents["stages/1.json"]["graphs"]["sync/1.0"]["tensors"]["scale"] == "stages/sync/1.0/scale"
    assert files.contents["stages/0.json"]["graphs"]["sync/0.0"]["tensors"]["scale"] == "scale"


def test_made_tensors_are_saved_loaded_and_left_out_of_the_model(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = result.stages
    stages["sync/1.0"].graph_module.register_buffer("scale", torch.full((8,), 3.0))
    monkeypatch.setattr(Result, "stages", property(lambda _: stages))
    save_result(result, tmp_path / "out")
    assert load_device(tmp_path / "out", 1)["sync", "1.0"].scale.tolist() == [3.0] * 8
    assert torch.equal(load_device(tmp_path / "out", 0)["sync", "0.0"].scale, result.program.parameters["scale"])
    monkeypatch.undo()
    again = load(tmp_path / "out", Chain())
    assert again.program.parameters.keys() == result.program.parameters.keys()


def test_another_process_needs_no_code_of_the_user(result: Result, saved: Path) -> None:
    (sample,), kwargs = chain_inputs(3)
    program = (
        "import json, sys, torch\n"
        "from graphopt.exporters.stage_files import load_device\n"
        f"stage = load_device({str(saved)!r}, 0)['sync', '0.0']\n"
        f"sample, timestep = torch.tensor({sample.tolist()}), torch.tensor({kwargs['timestep'].tolist()})\n"
        "with torch.no_grad():\n    found = stage(sample, timestep)\n"
        "print(json.dumps(found[0].tolist()))\n"
        "assert not any(name.startswith('exporters') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        wanted = result.stages["sync/0.0"].graph_module(sample, kwargs["timestep"])
    assert json.loads(done.stdout) == wanted[0].tolist()


def test_weights_keep_the_order_in_which_they_lie_in_memory(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    program = capture(model.eval(), (x,))
    save_result(partitioned(program, in_parts(program, 2)), tmp_path / "out")
    weight = load_device(tmp_path / "out", 0)["sync", "0.0"].get_parameter("0.weight")
    assert weight.stride() == model[0].weight.stride()
    assert torch.equal(weight, model[0].weight)


@pytest.mark.parametrize("name", ["plan.json", "stages/0.json"])
@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_damage_is_found_and_the_file_named(saved: Path, name: str, damage: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "missing":
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(content if damage == "flipped" else content[:-3])
    for read in (load_device, device_bytes):
        with pytest.raises(PlanError, match=name.replace(".", r"\.")):
            read(saved, 0)


def test_weights_cut_short_or_gone_are_found(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(PlanError, match=r"model\.safetensors has \d+ bytes where"):
        load_device(saved, 0)
    path.unlink()
    with pytest.raises(PlanError, match=r"model\.safetensors cannot be read"):
        load_device(saved, 0)


def test_a_device_that_the_result_does_not_have(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no stages of a device 2, it has stages/0\.json, stages/1\.json"):
        load_device(saved, 2)
    with pytest.raises(PlanError, match=r"is .* a saved result"):
        load_device(tmp_path, 0)


FAULTS: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("version",), 7, "version 7, wanted 1"),
    (("graphs",), None, "is damaged"),
    (("segments", 0, "graph"), "nowhere", "is damaged"),
    (("graphs", "sync/0.0", "tensors", "scale"), "nowhere", "cannot be read"),
    (("graphs", "sync/0.0", "tensors", "scale"), "second.bias", r"float32 \[12\] and the graph wants float32 \[8\]"),
    (("graphs", "sync/0.0", "graph", "nodes"), [], "is damaged"),
]


@pytest.mark.parametrize(("place", "value", "message"), FAULTS)
def test_a_file_that_fits_the_manifest_and_not_its_purpose(
    saved: Path, place: tuple[str | int, ...], value: Any, message: str
) -> None:
    path = saved / "stages" / "0.json"
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    write_manifest(saved)
    with pytest.raises(PlanError, match=message):
        load_device(saved, 0)


def test_programs_that_do_not_fit_the_partition_are_refused(result: Result, tmp_path: Path) -> None:
    assert result.partition is not None
    stages, known = result.stages, result.program.parameters
    with pytest.raises(ExportError, match=r"no program for the segment sync/1\.0"):
        describe_stages(result.partition, {"sync/0.0": stages["sync/0.0"]}, known)
    with pytest.raises(ExportError, match=r"segment sync/0\.0 takes 1 inputs and returns 2 outputs, wanted 2 and 1"):
        describe_stages(result.partition, {**stages, "sync/0.0": stages["sync/1.0"]}, known)
