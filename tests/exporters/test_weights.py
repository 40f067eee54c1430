import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exporters.results import Small, inputs, pruned_result, small_program, with_programs
from safetensors.torch import load_file
from torch import nn

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.weights import load, load_inputs, load_tensors, save_result
from graphopt.pass_manager.result import Report, Result
from graphopt.plan import Plan
from graphopt.tracing import capture

FILES = [
    "inputs.json",
    "inputs.safetensors",
    "manifest.json",
    "model.safetensors",
    "plan.json",
    "report.html",
    "report.json",
]


@pytest.fixture(scope="module")
def result() -> Result:
    return pruned_result()


@pytest.fixture(scope="module")
def pristine(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "out"
    save_result(result, folder)
    return folder


@pytest.fixture
def saved(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "out")
    return tmp_path / "out"


def plain(model: nn.Module, *args: torch.Tensor) -> Result:
    program = capture(model, args)
    return Result(program=program, programs={"main": program}, plan=None, report=Report(passes=()))


def test_a_saved_folder_holds_these_files(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert sorted(json.loads((saved / "manifest.json").read_text())["files"]) == sorted({*FILES} - {"manifest.json"})


def test_a_fresh_model_computes_what_was_saved(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "out")
    again = load(tmp_path / "out", Small())
    for batch in (2, 5):
        args, kwargs = inputs(batch)
        wanted, found = result.program(*args, **kwargs), again.program(*args, **kwargs)
        assert torch.equal(wanted["sum"], found["sum"])
        assert torch.equal(wanted["extra"], found["extra"])
    assert again.plan == result.plan
    assert again.program.parameters["first.weight"].shape == (12, 8)


def test_loading_keeps_ties_kinds_and_the_models_own_weights(saved: Path) -> None:
    model = Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded = load(saved, model)
    tensors = loaded.program.parameters
    assert tensors["second.weight"] is tensors["again.weight"]
    assert isinstance(tensors["first.weight"], nn.Parameter)
    assert {name for name, _ in loaded.module().named_parameters()} >= {"first.weight", "first.bias"}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.zero_()
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == set()


def test_a_loaded_result_is_saved_as_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    load(saved, Small()).save(tmp_path / "again")
    assert {name: (tmp_path / "again" / name).read_bytes() for name in FILES} == {
        name: (saved / name).read_bytes() for name in FILES
    }


def test_tied_weights_are_stored_once(saved: Path) -> None:
    assert sorted(load_file(saved / "model.safetensors")) == [
        "again.bias",
        "again.weight",
        "constant",
        "first.bias",
        "first.weight",
        "scale",
        "second.bias",
        "shift",
    ]
    assert load_tensors(saved)["second.weight"].shape == (8, 12)


def test_the_saved_inputs_are_those_of_the_capture(tmp_path: Path) -> None:
    program = small_program()
    save_result(pruned_result(program), tmp_path / "out")
    args, kwargs = load_inputs(tmp_path / "out")
    assert torch.equal(args[0], program.args[0])
    assert torch.equal(kwargs["extra"]["bias"], program.kwargs["extra"]["bias"])


def test_the_report_comes_back(result: Result, saved: Path) -> None:
    (wanted,), (found,) = result.report.passes, load(saved, Small()).report.passes
    assert repr(found) == repr(wanted)
    assert json.loads((saved / "report.json").read_text())["passes"][0]["after"] == {"flops": 768.0, "gain": "inf"}


def test_the_plan_is_replayed_on_a_state_dict_too(saved: Path) -> None:
    plan = Plan.from_json((saved / "plan.json").read_text())
    model = Small()
    assert plan.slice_state_dict(model.state_dict())["first.bias"].shape == (12,)


def test_a_program_without_a_plan_is_saved_as_it_is(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    result = plain(nn.Linear(4, 5), x)
    save_result(result, tmp_path / "out")
    assert torch.equal(load(tmp_path / "out", nn.Linear(4, 5)).program(x), result.program(x))


def test_a_rewritten_program_without_a_plan_is_refused(result: Result, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="was rewritten and the result has no plan"):
        save_result(replace(result, plan=None), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_other_programs_bring_their_own_tensors(result: Result, tmp_path: Path) -> None:
    save_result(with_programs(result, full=result.program, other=small_program()), tmp_path / "out")
    found = load_tensors(tmp_path / "out")
    assert found["programs/other/first.weight"].shape == (16, 8)
    assert [name for name in found if name.startswith("programs/full/")] == []
    assert load(tmp_path / "out", Small()).program.parameters.keys() == result.program.parameters.keys()


def test_weights_in_half_precision(tmp_path: Path) -> None:
    x = torch.randn(2, 4, dtype=torch.bfloat16)
    result = plain(nn.Linear(4, 5).bfloat16(), x)
    save_result(result, tmp_path / "out")
    assert torch.equal(load(tmp_path / "out", nn.Linear(4, 5).bfloat16()).program(x), result.program(x))
    with pytest.raises(PlanError, match="made for another model"):
        load(tmp_path / "out", nn.Linear(4, 5))


def test_another_model_is_refused(saved: Path) -> None:
    class Other(Small):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 20)
            self.second = nn.Linear(20, 8)
            self.again = nn.Linear(20, 8)

    with pytest.raises(PlanError, match="made for another model"):
        load(saved, Other())


@pytest.mark.parametrize("name", ["plan.json", "model.safetensors", "inputs.json", "inputs.safetensors", "report.json"])
@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_damage_is_found_and_the_file_named(saved: Path, name: str, damage: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "missing":
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(content if damage == "flipped" else content[:-3])
    with pytest.raises(PlanError, match=name.replace(".", r"\.")):
        load(saved, Small())


def test_every_byte_of_the_plan_counts(saved: Path) -> None:
    content = (saved / "plan.json").read_bytes()
    for place in range(0, len(content), 97):
        (saved / "plan.json").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(PlanError, match=r"plan\.json was changed"):
            load(saved, Small())


def test_a_folder_that_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"is .* a saved result"):
        load(tmp_path, Small())
    with pytest.raises(PlanError, match="cannot be read"):
        load_tensors(tmp_path / "no")


def test_swapped_weights_are_found_even_with_a_fitting_manifest(saved: Path, tmp_path: Path) -> None:
    from graphopt.exporters.manifest import write_manifest

    save_result(plain(nn.Linear(4, 5), torch.randn(2, 4)), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved)
    write_manifest(saved)
    with pytest.raises(PlanError, match=r"does not fit the model: the model has 'first\.weight', the file does not"):
        load(saved, Small())


def test_a_report_that_is_none(saved: Path) -> None:
    from graphopt.exporters.manifest import write_manifest

    (saved / "report.json").write_text('{"passes": [{"name": 1}]}')
    write_manifest(saved)
    with pytest.raises(PlanError, match=r"report\.json is damaged"):
        load(saved, Small())


def test_what_cannot_be_written_leaves_the_earlier_result(
    result: Result, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    args = (*result.program.lineage.origin.args, object())
    broken = replace(result.program, lineage=replace(result.program.lineage, origin=replace(result.program, args=args)))
    with pytest.raises(ExportError, match=r"args\[1\] is a builtins\.object"):
        save_result(replace(result, program=broken), saved)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"No space left on device.*free some space"):
        save_result(result, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_weights_on_the_meta_device_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 5)
    with pytest.raises(ExportError, match="has no values"):
        save_result(plain(model, torch.randn(2, 4)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_values_gets_them_from_the_file(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    result = plain(nn.Linear(4, 5), x)
    save_result(result, tmp_path / "out")
    model = nn.Linear(4, 5, device="meta")
    with pytest.raises(PlanError, match="on the meta device"):
        load(tmp_path / "out", model)
    assert torch.equal(load(tmp_path / "out", model.to_empty(device="cpu")).program(x), result.program(x))


def test_every_file_has_the_rights_of_a_new_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in saved.iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_a_class_is_no_model(saved: Path) -> None:
    with pytest.raises(PlanError, match="build a fresh one"):
        load(saved, model=Small)


def test_a_model_of_another_class_is_named(saved: Path) -> None:
    with pytest.raises(PlanError, match="made for another model: for a Small, and this Embedding"):
        load(saved, model=nn.Embedding(3, 4))
