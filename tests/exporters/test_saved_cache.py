"""Saved results with a schedule: programs, schedule, weights and report come back, from Python and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from caching.tiny import images, skips, stack, tokens

import graphopt
from graphopt.errors import PlanError
from graphopt.rewrite.replay import replay_programs
from graphopt.wiring import first_difference

SPECS = [
    "deepcache{interval=2}",
    "insert-cache{cuts=[add_1:add_3],schedule=uniform:3,predictor=linear,last_full}",
    "insert-cache{cuts=[linear_9,linear_13],table=[00,10,11,01]}",
    "first-block{threshold=0.1,max_consecutive=2},hoist-invariants",
    "prune-channels{ratio=0.5},first-block{threshold=0.3}",
    "prune-layers{layers=[block.1]},mag-cache{ratios=[1.0,1.0,1.0,1.0]},hoist-invariants",
]


@pytest.mark.parametrize("spec", SPECS)
def test_everything_comes_back(spec: str, tmp_path: Path) -> None:
    make, inputs = (skips, images) if spec.startswith("deepcache") else (stack, tokens)
    result = graphopt.Pipeline(spec).run(graphopt.capture(make(), inputs()))
    folder = result.save(tmp_path / "saved")
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    loaded = graphopt.load(folder, model)
    assert loaded.schedule == result.schedule
    assert list(loaded.programs) == list(result.programs)
    for name, program in result.programs.items():
        assert first_difference(program.graph_module, loaded.programs[name].graph_module) is None
        own = loaded.program.parameters
        assert all(tensor.data_ptr() == own[key].data_ptr() for key, tensor in loaded.programs[name].parameters.items())
    sessions = graphopt.CacheSession(result), graphopt.CacheSession(loaded)
    for step in range(5):
        one, other = (session(*inputs(step)) for session in sessions)
        assert torch.equal(one, other)
    assert sessions[0].decisions == sessions[1].decisions
    assert "full" not in {decision.program for decision in sessions[0].decisions[1:2]}
    assert [report.spec for report in loaded.report.passes] == [report.spec for report in result.report.passes]
    assert loaded.report.passes[-1].notes == result.report.passes[-1].notes
    again = loaded.save(tmp_path / "again")
    assert (again / "plan.json").read_bytes() == (folder / "plan.json").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_weights_are_written_once(tmp_path: Path) -> None:
    result = graphopt.Pipeline(SPECS[3]).run(graphopt.capture(stack(), tokens()))
    result.save(tmp_path / "before")
    result.module()
    result.save(tmp_path / "after")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("before", "after")]
    assert sizes[0] == sizes[1] < 4452 * 4 + 4096


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: plan["cuts"]["cache_0"]["cut"].update(value="add_77"), "add_77"),
        (lambda plan: plan["schedule"]["policy"].update(kind="sometimes"), "sometimes"),
        (lambda plan: plan["schedule"]["programs"].pop("cached"), "cached"),
    ],
)
def test_a_schedule_that_was_edited_wrongly_is_refused(damage: Callable[[Any], object], message: str) -> None:
    spec = "insert-cache{cuts=[add_1:add_3],schedule=[0,3]}"
    program = graphopt.capture(stack(), tokens())
    plan = graphopt.Pipeline(spec).run(program).plan
    assert plan is not None
    data = json.loads(plan.to_json())
    damage(data)
    with pytest.raises(PlanError, match=message):
        replay_programs(graphopt.Plan.from_json(json.dumps(data)), program)


START = "import sys; from graphopt.cli import main; sys.exit(main())"
MODEL = """
import sys
sys.path.insert(0, {tests!r})
from caching.tiny import stack, tokens


def build():
    return stack(), tokens()
"""


def test_the_command_line_saves_a_cache_that_python_plays(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL.format(tests=str(Path(__file__).parents[1])), encoding="utf-8")

    def command(passes: str, *more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", START, "optimize", "model.py:build", "--passes", passes, *more]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    spec = "first-block{threshold=0.1}"
    done = command(spec, "--out", "saved")
    assert done.returncode == 0, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any(row.startswith("parameters 4.45k 1.6k 36.0%") for row in rows), done.stdout
    session = graphopt.CacheSession(graphopt.load(tmp_path / "saved", stack()))
    expected = graphopt.CacheSession(graphopt.Pipeline(spec).run(graphopt.capture(stack(), tokens())))
    for step in range(3):
        assert torch.equal(session(*tokens(step)), expected(*tokens(step)))
    wrong = command("first-block{threshold=0}")
    assert wrong.returncode != 0
    assert "wanted a distance above 0" in wrong.stderr
    assert "Traceback" not in wrong.stderr
