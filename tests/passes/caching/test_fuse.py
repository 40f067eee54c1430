"""fuse-cached-blocks behind every preset: what is fused, that nothing changes by it, and that it comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from caching.normed import PREDICTED, Normed, normed_program
from caching.tiny import skips_program, stack_program
from peers.compiling import Attempt, Call, attempt_compile, attempt_export
from peers.sampling import Run, sample, scheduler_of
from peers.subjects import DIT, FLUX, PIXART, UNET, normal, randomise_

import graphopt
from graphopt.errors import PreconditionError, SpecError, VerificationError
from graphopt.pass_manager.result import Result
from graphopt.proof.caching import check_programs
from graphopt.rewrite.cutting import step_program
from graphopt.runtime.session import CacheSession, Decision
from graphopt.schedule import Periods
from graphopt.wiring import first_difference

SUBJECTS = {"dit": DIT, "flux": FLUX, "pixart": PIXART, "unet": UNET}
ROUNDING = 1e-5
"""Largest error of outputs where a convolution became a sum of two, as a share of their largest magnitude."""

RATIOS = ",".join(map(str, [1.0] + [1.01] * 10 + [0.99] * 9))
ROUTER = ",".join(["00000000", "01101101"] * 10)
GATES = ",".join((["0000", "0110", "1011"] * 7)[:20])
EVERYWHERE = "insert-cache{cuts=[branch.*],schedule=uniform:3,predictor=linear,allow_dead=[*]}"

CASES: dict[tuple[str, str], dict[str, str]] = {
    ("unet", "deepcache{interval=3}"): {"cached": "1 split_group_norm"},
    ("unet", "deepcache{interval=3,branch=1}"): {"cached": "1 split_group_norm"},
    ("unet", "deepcache{interval=3,branch=2,push=true}"): {"cached": "1 split_group_norm"},
    ("unet", "insert-cache{cuts=[skip.0],schedule=[0,4,8],steps=20,allow_dead=[*]}"): {"cached": "1 split_group_norm"},
    ("dit", "first-block{threshold=0.8}"): {"probe": "1 relative_l1", "tail-cached": "1 stack_apply"},
    ("flux", "first-block{threshold=0.8}"): {"probe": "1 relative_l1", "tail-cached": "1 stack_apply"},
    ("pixart", "dbcache{front=1,back=1,warm_up=2,threshold=0.8}"): {
        "probe": "1 relative_l1",
        "tail-cached": "1 cached_apply",
    },
    ("dit", "taylorseer{interval=3,order=2,warm_up=2}"): {"cached": "4 taylor_add, 4 cached_apply"},
    ("flux", "taylorseer{interval=3,order=1}"): {"cached": "7 taylor_add, 4 cached_apply"},
    ("normed", PREDICTED): {"cached": "1 taylor_add, 1 cached_apply"},
    ("dit", EVERYWHERE): {"cached": "8 taylor_add, 1 cached_apply"},
    ("dit", f"mag-cache{{ratios=[{RATIOS}]}}"): {"cached": "1 stack_apply"},
    ("pixart", "pab{cross_attention=3}"): {"cached-0": "4 cached_apply", "cached-1": "4 cached_apply"},
    ("dit", f"l2c{{table=[{ROUTER}]}}"): {"cached": "3 cached_apply"},
    ("dit", f"dip-go{{table=[{GATES}]}}"): {"cached-0": "1 cached_apply", "cached-1": "2 cached_apply"},
}
QUICK = [("dit", "first-block{threshold=0.8}"), ("normed", PREDICTED)]


@cache
def program_of(name: str) -> graphopt.Program:
    if name == "normed":
        return normed_program()
    subject = SUBJECTS[name]
    timestep = scheduler_of(subject).timesteps[0]
    latents = normal(2, *subject.latents)
    args, kwargs = subject.arguments(latents, timestep / 1000 if subject.flow else timestep, subject.conditions(2))
    return graphopt.capture(subject.make(), args, kwargs)


@cache
def result_of(name: str, passes: str) -> Result:
    return graphopt.Pipeline(passes).run(program_of(name))


def generate(result: Result, name: str) -> tuple[Run, list[Decision]]:
    """Twenty steps, of denoisers under guidance in one batch."""
    session = CacheSession(result)
    if name == "normed":
        outputs = [session(normal(2, 5, 4, seed=step), normal(2, 8, seed=step)) for step in range(20)]
        return Run(tuple(outputs), outputs[-1]), session.decisions
    subject = SUBJECTS[name]
    timesteps = scheduler_of(subject).timesteps.tolist()
    session.reset(timesteps=[timestep / 1000 if subject.flow else timestep for timestep in timesteps])
    return sample(session, subject, "batched", batch=1), session.decisions


def error_of(ours: Run, theirs: Run) -> float:
    pairs = zip(ours.outputs, theirs.outputs, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def kernels_in(program: graphopt.Program) -> list[str]:
    return [str(node.target) for node in program.nodes() if str(node.target).startswith("graphopt.")]


def counts(result: Result) -> dict[str, str]:
    return dict(note.split(": ") for note in result.report.passes[-1].notes)


def require_same(name: str, fused: Result, plain: Result) -> None:
    (ours, decided), (theirs, expected) = generate(fused, name), generate(plain, name)
    assert [one.program for one in decided] == [one.program for one in expected]
    assert len({one.program for one in decided}) > 1
    error = error_of(ours, theirs)
    assert fused.schedule is not None
    if "split_group_norm" in fused.schedule.fused:
        assert 0 < error <= ROUNDING
    else:
        assert error == 0
        assert torch.equal(ours.latents, theirs.latents)


# ------------------------------------------------------------------ every preset


@pytest.mark.parametrize(
    ("name", "passes"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_a_generation_is_the_same_with_kernels(name: str, passes: str) -> None:
    fused = result_of(name, f"{passes},fuse-cached-blocks")
    assert counts(fused).items() >= CASES[name, passes].items()
    for program, text in counts(fused).items():
        assert len(kernels_in(fused.programs[program])) == sum(int(item.split()[0]) for item in text.split(", "))
    assert all(not kernels_in(program) for key, program in fused.programs.items() if key not in counts(fused))
    require_same(name, fused, result_of(name, passes))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["hoist-invariants,fuse-cached-blocks", "fuse-cached-blocks,hoist-invariants"])
@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("dit", "first-block{threshold=0.8}"),
        ("flux", "taylorseer{interval=3,order=1}"),
        ("unet", "deepcache{interval=3}"),
    ],
)
def test_hoisting_before_or_behind(name: str, passes: str, order: str) -> None:
    fused = result_of(name, f"{passes},{order}")
    alone = counts(result_of(name, f"{passes},fuse-cached-blocks"))
    found = {key: len(kernels_in(program)) for key, program in fused.programs.items() if kernels_in(program)}
    assert found == {key: sum(int(item.split()[0]) for item in text.split(", ")) for key, text in alone.items()}
    require_same(name, fused, result_of(name, passes))


@pytest.mark.parametrize("order", ["hoist-invariants,fuse-cached-blocks", "fuse-cached-blocks,hoist-invariants"])
def test_hoisted_scales_are_handed_on_without_their_one(order: str) -> None:
    fused = result_of("normed", f"{PREDICTED},{order}")
    text = str(fused.programs["cached"])
    assert "%fixed_5, %fixed_4, 'layer', 1e-05, False)" in text
    require_same("normed", fused, result_of("normed", PREDICTED))


@pytest.mark.slow
def test_hoisted_scales_reach_the_kernel_as_they_are() -> None:
    fused = result_of("dit", "first-block{threshold=0.8},hoist-invariants,fuse-cached-blocks")
    text = str(fused.programs["tail-cached"])
    assert "graphopt.stack_apply(%carry_0, %cache_0, None, None, %timed_24, %timed_25, 'layer', 1e-06, False)" in text
    assert "aten.add" not in text


@pytest.mark.slow
def test_auto() -> None:
    subject = SUBJECTS["dit"]
    steps = []
    for number, timestep in enumerate(scheduler_of(subject, 8).timesteps):
        args, kwargs = subject.arguments(normal(2, *subject.latents, seed=number), timestep, subject.conditions(2))
        steps.append(graphopt.Batch(args, kwargs))
    context = graphopt.PassContext(calibration=steps)
    passes = "auto{error=1000.0,intervals=[3],predictors=[1]}"
    fused = graphopt.Pipeline(f"{passes},fuse-cached-blocks").run(program_of("dit"), context)
    assert counts(fused) != {}
    assert fused.schedule is not None
    plain = {
        key: step_program(fused.program, fused.schedule, key, fused.programs[key].kwargs) for key in fused.programs
    }
    for key, program in plain.items():
        inputs = fused.programs[key].args, fused.programs[key].kwargs
        assert torch.equal(program(*inputs[0], **inputs[1])[0][0], fused.programs[key](*inputs[0], **inputs[1])[0][0])


# ------------------------------------------------------------------ where nothing fits


@pytest.mark.slow
def test_the_report_says_what_was_found_where_no_kernel_fits() -> None:
    fused = result_of("pixart", "pab{cross_attention=3},fuse-cached-blocks")
    assert isinstance(fused.schedule.policy if fused.schedule else None, Periods)
    refused = fused.report.passes[-1].refused
    assert len(refused) == 4
    assert refused[0] == (
        "cached-2: cache_0: linear_9 (aten.linear), add_5 (aten.add) read add_4, which adds it, wanted a layer_norm or "
        "rms_norm"
    )


@pytest.mark.slow
def test_pushed_cuts_leave_nothing_to_fuse_and_a_note_says_so() -> None:
    passes = "deepcache{interval=3,push=true}"
    fused = result_of("unet", f"{passes},fuse-cached-blocks")
    report = fused.report.passes[-1]
    assert report.notes == ("no kernel fits; the programs stay as they are",)
    assert [text.split(" reads ")[0] for text in report.refused] == [
        "cached: cache_0: group_norm_43 (aten.group_norm)",
        "cached: cache_1: div_37 (aten.div)",
    ]
    assert fused.schedule == result_of("unet", passes).schedule
    assert fused.plan is not None
    assert fused.plan.passes == ("deepcache{interval=3,push}", "fuse-cached-blocks")
    assert not any(map(kernels_in, fused.programs.values()))


def test_models_without_norms_get_a_note() -> None:
    fused = graphopt.Pipeline("mag-cache{ratios=[1,1,1,1]},fuse-cached-blocks").run(stack_program())
    assert fused.report.passes[-1].refused == (
        "cached: cache_0: linear_14 (aten.linear) reads add_tensor, which adds it, wanted a layer_norm or rms_norm",
    )
    fused = graphopt.Pipeline("deepcache{interval=3},fuse-cached-blocks").run(skips_program())
    assert fused.report.passes[-1].refused == (
        "cached: cache_0: the concatenation cat is read by conv2d_3, not by a group norm",
    )


# ------------------------------------------------------------------ options and order


def test_only_the_kernels_that_were_asked_for() -> None:
    fused = result_of("normed", f"{PREDICTED},fuse-cached-blocks{{kernels=[cached_apply]}}")
    assert counts(fused) == {"cached": "1 cached_apply"}
    assert fused.schedule is not None
    assert fused.schedule.fused == ("cached_apply",)
    require_same("normed", fused, result_of("normed", PREDICTED))


@pytest.mark.parametrize(
    ("passes", "error", "text"),
    [
        ("fuse-cached-blocks", PreconditionError, r"no caching pass ran before it.*deepcache\{interval=3\},fuse"),
        (f"{PREDICTED},fuse-cached-blocks,fuse-cached-blocks", PreconditionError, "fused before; name the pass once"),
        ("fuse-cached-blocks{kernels=[layer_norm]}", SpecError, "wanted some of cached_apply, stack_apply"),
        ("fuse-cached-blocks{kernels=[]}", SpecError, "wanted some of cached_apply"),
        (f"{PREDICTED},fuse-cached-blocks,{PREDICTED}", PreconditionError, "made a schedule of its own"),
    ],
)
def test_wrong_orders_and_options(passes: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        graphopt.Pipeline(passes).run(program_of("normed") if PREDICTED in passes else skips_program())


# ------------------------------------------------------------------ what can be done with the result

KEPT = [
    ("normed", f"{PREDICTED},fuse-cached-blocks"),
    pytest.param("dit", "taylorseer{interval=3,order=2,warm_up=2},fuse-cached-blocks", marks=pytest.mark.slow),
    pytest.param("unet", "deepcache{interval=3},fuse-cached-blocks", marks=pytest.mark.slow),
    pytest.param("dit", "first-block{threshold=0.8},hoist-invariants,fuse-cached-blocks", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "passes"), KEPT)
def test_saved_and_loaded(name: str, passes: str, tmp_path: Path) -> None:
    fused = result_of(name, passes)
    folder = fused.save(tmp_path / "saved")
    assert fused.schedule is not None
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    assert plan["schedule"]["fused"] == list(fused.schedule.fused)
    assert fused.schedule.fused
    fresh = Normed() if name == "normed" else SUBJECTS[name].make()
    loaded = graphopt.load(folder, randomise_(fresh, seed=5))
    assert loaded.schedule == fused.schedule
    for key, program in fused.programs.items():
        assert first_difference(program.graph_module, loaded.programs[key].graph_module) is None
    (ours, _), (theirs, _) = generate(loaded, name), generate(fused, name)
    assert torch.equal(ours.latents, theirs.latents)
    assert graphopt.verify(fused.program, fused).checks[-2].law == "fused programs"


@pytest.mark.parametrize(("name", "passes"), KEPT)
def test_onnx_files_hold_standard_operators(name: str, passes: str, tmp_path: Path) -> None:
    fused = result_of(name, passes)
    report = graphopt.export_onnx(fused, tmp_path / "onnx")
    assert set(report.programs) == set(fused.programs)
    assert max(error.relative for error in report.errors) < 1e-4
    for key in fused.programs:
        model = onnx.load(tmp_path / "onnx" / f"{key}.onnx", load_external_data=False)
        assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


@pytest.mark.parametrize(("name", "passes"), KEPT)
def test_programs_compile_and_export(name: str, passes: str) -> None:
    fused = result_of(name, passes)
    for key in counts(fused):
        program = fused.programs[key]
        call = Call(program.graph_module, program.args, program.kwargs)
        assert attempt_compile(lambda call=call: call) == Attempt(equal=True), key
        assert attempt_export(lambda call=call: call) == Attempt(equal=True), key


def test_a_module_of_the_result_is_the_model_without_cache() -> None:
    fused = result_of("normed", f"{PREDICTED},fuse-cached-blocks")
    with torch.no_grad():
        assert torch.equal(fused.module()(*fused.program.args), fused.program(*fused.program.args))


@pytest.mark.slow
def test_a_model_with_its_cache_enabled_runs_kernels() -> None:
    passes = "taylorseer{interval=3,order=2,warm_up=2}"
    runs = []
    for spec in (passes, f"{passes},fuse-cached-blocks"):
        denoiser = graphopt.enable_cache(DIT.make(), spec)
        runs.append(sample(denoiser, DIT, "batched", batch=1))
        kernels = [
            name for session in denoiser.sessions for name in map(kernels_in, session._programs.values()) if name
        ]
        assert len(kernels) == (0 if spec == passes else 1)
    assert torch.equal(runs[0].latents, runs[1].latents)


def test_the_report_counts_what_is_saved() -> None:
    report = result_of("normed", f"{PREDICTED},fuse-cached-blocks").report.passes[-1]
    assert report.before["macs"] == report.after["macs"]
    series, gated_sum, modulated_norm = 4, 2, 4
    assert report.before["operators"] - report.after["operators"] == (series - 1) + (gated_sum + modulated_norm - 1)
    assert report.after["bytes_moved"] < report.before["bytes_moved"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_generation_on_a_gpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Normed().eval().requires_grad_(False).to("cuda", dtype)
    steps = [[normal(2, *shape, seed=step).to("cuda", dtype) for shape in ((5, 4), (8,))] for step in range(6)]
    program = graphopt.capture(model, tuple(steps[0]))
    plain, fused = (
        CacheSession(graphopt.Pipeline(passes).run(program))
        for passes in (PREDICTED, f"{PREDICTED},fuse-cached-blocks")
    )
    compiled = CacheSession(graphopt.Pipeline(f"{PREDICTED},fuse-cached-blocks").run(program))
    compiled.compile()
    allowed = 16 * torch.finfo(dtype).eps
    for step in steps:
        wanted = plain(*step).float()
        for session in (fused, compiled):
            assert float((session(*step).float() - wanted).abs().max() / wanted.abs().max()) <= allowed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("passes", "launches"),
    [
        (PREDICTED, {"cached": 2}),
        ("insert-cache{cuts=[add_2:add_5],threshold=0.5,probe=linear:add_2}", {"probe": 2, "tail-cached": 1}),
    ],
)
def test_the_kernels_themselves_compute_what_their_references_do(passes: str, launches: dict[str, int]) -> None:
    tests = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(tests), "PYTHONSAFEPATH": "1"}
    completed = subprocess.run(
        [sys.executable, str(tests / "caching" / "interpreted.py"), passes],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=600,
    )
    found = json.loads(completed.stdout.splitlines()[-1])
    assert {name: count for name, (_, count) in found.items()} == launches
    assert all(error < 2e-6 for error, _ in found.values())


def test_a_kernel_that_computes_something_else_is_found() -> None:
    fused = result_of("normed", f"{PREDICTED},fuse-cached-blocks")
    program = fused.programs["cached"]
    node = next(node for node in program.nodes() if str(node.target).startswith("graphopt.taylor_add"))
    arguments = node.args
    assert fused.schedule is not None
    try:
        node.args = (*arguments[:2], [], arguments[3])
        program.graph_module.recompile()
        with pytest.raises(VerificationError, match="fused programs: cached with cached_apply, taylor_add gives other"):
            check_programs(fused.program, fused.schedule, fused.programs)
    finally:
        node.args = arguments
        program.graph_module.recompile()
    check_programs(fused.program, fused.schedule, fused.programs)
