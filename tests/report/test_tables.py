from io import StringIO

import torch
from rich.console import Console, RenderableType
from torch import nn

import graphopt
from graphopt.dependency.graph import FrozenAxis
from graphopt.pass_manager import PassReport, Report
from graphopt.report import Benchmark, FrozenReason, GroupSummary, Inspection, Variant
from graphopt.report.inspection_tables import inspection_tables
from graphopt.report.tables import benchmark_tables, plain_table, report_tables
from graphopt.report.unit_timing import UnitTiming
from graphopt.report.widths import OddWidth


def rendered(*renderables: RenderableType) -> list[str]:
    """Return the lines of a plain terminal, without blank lines and rules."""
    stream = StringIO()
    for renderable in renderables:
        Console(file=stream, width=200).print(renderable)
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    return [line for line in lines if line and not line.startswith("─")]


def test_inspection() -> None:
    group = GroupSummary(
        id="a[0].weight:0",
        kind="head",
        size=8,
        members=4,
        marks=("residue", "statistic"),
        round_to={"cuda": 8, "cpu": 16},
        parameters_per_unit=1500,
        macs_per_unit=0,
        parameters_of_half=6000,
        macs_of_half=0,
    )
    width = OddWidth(
        size=1001,
        dtype="float16",
        target="cuda",
        multiple=8,
        reason="because",
        places=("a:0", "b:0", "c:0", "d:1"),
        down=1000,
        up=1008,
    )
    axes = tuple(FrozenAxis(f"layer{index}.weight", 1, 3, "x") for index in range(5))
    inspection = Inspection(
        model="Net",
        fingerprint="f",
        dynamic_batch=False,
        notes=("static batch: why",),
        totals={"parameters": 24_000, "macs": 0},
        by="parameters",
        count=3,
        groups=(group,),
        odd_widths=(width,),
        frozen=(FrozenReason(reason="no rule at /usr/lib/site-packages/timm/layers.py:3", axes=axes),),
    )
    assert rendered(*inspection_tables(inspection)) == [
        "Net: 3 coupling groups by parameters per unit, the first 1",
        "group kind size members parameters/unit MACs/unit half: parameters half: MACs round to (cuda/cpu) marks",
        "a[0].weight:0 head 8 4 1.5k 0 6k (25.0%) 0 8/16 residue, statistic",
        "odd widths",
        "for width multiple of round to where why",
        "a GPU 1001 8 1000 or 1008 a:0, b:0, c:0 and 1 more float16: because",
        "frozen",
        "reason dimensions for example",
        "no rule at timm/layers.py:3 5 layer0.weight:1, layer1.weight:1, layer2.weight:1 and 2 more",
        "parameters 24k, MACs 0",
        "note: static batch: why",
    ]


def test_measured_times_are_shown_with_their_share_and_noise() -> None:
    timing = UnitTiming(seconds=0.02, seconds_saved=0.004, noise_seconds=0.0005, operators=7, untimed=2)
    group = GroupSummary(
        id="w:0",
        kind="hidden",
        size=16,
        members=3,
        marks=(),
        round_to={"cuda": 1, "cpu": 1},
        parameters_per_unit=1,
        macs_per_unit=2,
        parameters_of_half=8,
        macs_of_half=16,
        timing=timing,
    )
    inspection = Inspection(
        model="Net",
        fingerprint="f",
        dynamic_batch=True,
        notes=(),
        totals={"parameters": 16, "macs": 32, "seconds": 0.04, "noise_seconds": 0.001},
        by="milliseconds",
        count=1,
        groups=(group,),
        odd_widths=(),
        frozen=(),
    )
    lines = rendered(*inspection_tables(inspection))
    assert lines[0] == "Net: 1 coupling groups by milliseconds per unit"
    assert lines[2] == "w:0 hidden 16 3 1 2 0.5 8 (50.0%) 16 (50.0%) 4 ms (10.0%) ± 0.5 ms 1/1"
    assert "shares are of the whole program's 40 ms ± 1 ms" in " ".join(lines)
    assert "note: 2 operators do not run on random tensors and are not in the times" in lines
    assert group.to_dict()["seconds_per_unit"] == 0.0005


def test_passes_and_what_is_kept() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    result = graphopt.optimize(model, (torch.randn(2, 8),), passes="prune-channels{ratio=0.5}")
    entry = PassReport(
        name="prune-channels",
        spec="prune-channels{ratio=0.5}",
        before={"parameters": 420, "parameter_bytes": 1680, "only_before": 1},
        after={"parameters": 212, "parameter_bytes": 848},
        seconds=0.5,
        frozen=("one", "two"),
        refused=("a stays whole", "b stays whole", "c stays whole", "d stays whole"),
        notes=("look here [sic]",),
    )
    assert rendered(*report_tables(Report((entry,)), result.plan)) == [
        "prune-channels{ratio=0.5}, 0.5 s",
        "before after after / before",
        "parameters 420 212 50.5%",
        "parameter bytes 1.68kB 848B 50.5%",
        "frozen: 2 dimensions; graphopt inspect tells why",
        "a stays whole",
        "b stays whole",
        "c stays whole",
        "and 1 more, which --json lists",
        "note: look here [sic]",
        "kept",
        "kind axes units kept of",
        "hidden 1 16 32",
    ]


def test_benchmark() -> None:
    found = Benchmark(
        model="Net",
        before=Variant(parameters=1_000_000, macs=2_000_000_000, torch_seconds=0.08, onnx_seconds=None),
        after=Variant(parameters=250_000, macs=1_000_000_000, torch_seconds=0.06, onnx_seconds=None),
        threads=2,
        repeats=20,
        device="cpu",
        notes=("a note",),
    )
    assert rendered(*benchmark_tables(found)) == [
        "Net",
        "before after after / before",
        "parameters 1M 250k 25.0%",
        "MACs 2G 1G 50.0%",
        "torch 80 ms 60 ms 75.0%",
        "ONNX Runtime - -",
        "20 interleaved rounds, medians, 2 threads, torch on cpu",
        "note: a note",
    ]


def test_names_and_values_are_taken_literally() -> None:
    assert rendered(plain_table("[bold]x[/bold]", [("[a]", "1"), ("b", "[/b]")])) == [
        "[bold]x[/bold]",
        "[a] 1",
        "b [/b]",
    ]
