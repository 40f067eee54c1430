import json
from pathlib import Path

import pytest
from rich.console import Console

from graphopt.demo.report import DemoReport, Figure, Row, verdicts
from graphopt.demo.spread import Spread

REPORT = DemoReport(
    title="A model",
    rows=(
        Row(
            name="original",
            parameters=2_000_000,
            macs=8_000_000,
            torch_milliseconds=10.0,
            onnx_milliseconds=4.0,
            quality={"accuracy": Spread(0.995, 0.0012)},
        ),
        Row(name="pruned", parameters=1_500_000, macs=4_000_000, torch_milliseconds=5.0, onnx_milliseconds=2.5),
        Row(name="real", quality={"accuracy": Spread(1.0)}),
    ),
    figures={"accuracy": Figure("accuracy %", "{:.1f}", scale=100.0)},
    findings={"taylor against random": {"accuracy %": "better", "loss": "no clear difference"}},
    notes=("Times: medians.",),
    files={"pruned": Path("out/pruned.onnx")},
    seconds={"train": 1.5},
)

TEXT = """\
A model
params MACs torch ms ONNX ms accuracy %
original 2.00M 8.00M 10.0 4.0 99.5 ± 0.1
pruned 1.50M (75%) 4.00M (50%) 5.0 (2.00x) 2.5 (1.60x)
real 100.0
Times: medians.
taylor against random: accuracy % better, loss no clear difference."""


def rendered(width: int) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(REPORT.table())
    return capture.get()


def test_table() -> None:
    lines = (" ".join(line.split()) for line in rendered(120).splitlines())
    assert "\n".join(line for line in lines if line and not line.startswith("─")) == TEXT


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cut_off(width: int) -> None:
    text = rendered(width)
    assert all(word in "".join(text.split()) for word in ("99.5±0.1", "(2.00x)", "(75%)", "8.00M"))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_json(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(REPORT.to_dict()))
    assert found["rows"][0]["quality"] == {"accuracy": {"mean": 0.995, "deviation": 0.0012}}
    assert found["rows"][2]["macs"] is None
    assert found["files"] == {"pruned": "out/pruned.onnx"}
    assert (found["findings"], found["seconds"]) == (REPORT.findings, {"train": 1.5})


def test_verdicts_mind_which_way_is_better() -> None:
    figures = {"loss": Figure("loss", "{:.2f}", lower_is_better=True), "accuracy": Figure("right %", "{:.0f}")}
    first, second = ({"loss": Spread(value), "accuracy": Spread(value)} for value in (0.2, 0.3))
    assert verdicts(first, second, figures) == {"loss": "better", "right %": "worse"}
