import json

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import MissingExtraError, SpecError
from graphopt.measure import Comparison, Latency
from graphopt.report import Benchmark, Variant, benchmark
from graphopt.report.variant import unrest


@pytest.fixture(scope="module")
def result() -> graphopt.Result:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    context = graphopt.PassContext(verify=False)
    return graphopt.optimize(model, (torch.randn(3, 8),), passes="prune-channels{ratio=0.5}", context=context)


def test_sizes_times_and_conditions(result: graphopt.Result) -> None:
    threads = torch.get_num_threads()
    found = benchmark(result, repeats=2, warm_up=0, threads=1, onnx=False)
    assert (found.before.parameters, found.after.parameters) == (420, 212)
    assert (found.before.macs, found.after.macs) == (3 * 384, 3 * 192)
    assert found.before.torch_seconds > 0
    assert (found.threads, found.repeats, found.device) == (1, 2, "cpu")
    assert torch.get_num_threads() == threads


def test_ratios_and_document() -> None:
    found = Benchmark(
        model="Net",
        before=Variant(parameters=100, macs=0, torch_seconds=0.5, onnx_seconds=None),
        after=Variant(parameters=25, macs=0, torch_seconds=0.25, onnx_seconds=None),
        threads=2,
        repeats=20,
        device="cpu",
        notes=("a note",),
    )
    assert found.ratios == {"parameters": 0.25, "torch_seconds": 0.5}
    assert json.loads(json.dumps(found.to_dict()))["ratios"] == found.ratios


def test_a_result_without_a_rewrite_says_so() -> None:
    result = graphopt.optimize(
        nn.Linear(4, 4),
        (torch.randn(2, 4),),
        passes="prune-channels{ratio=0.5}",
        context=graphopt.PassContext(fuel=0),
    )
    found = benchmark(result, repeats=2, warm_up=0, onnx=False)
    assert found.before.parameters == found.after.parameters == 20
    assert found.notes[0] == "the result rewrote nothing: before and after are one program"


def test_torch_is_measured_where_onnx_has_no_form() -> None:
    class Eigen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(self.second(self.first(x).relu()).unflatten(1, (3, 3)))

    context = graphopt.PassContext(verify=False)
    result = graphopt.optimize(Eigen(), (torch.randn(2, 4),), passes="prune-channels{ratio=0.5}", context=context)
    found = benchmark(result, repeats=2, warm_up=0)
    assert found.after.torch_seconds > 0
    assert (found.before.onnx_seconds, found.after.onnx_seconds) == (None, None)
    assert found.notes[0].startswith("ONNX Runtime was not measured: torch.onnx cannot convert the program")


def test_a_busy_machine_is_told() -> None:
    calm, restless = (Latency(1.0, iqr, 20, 1, "cpu") for iqr in (0.3, 0.5))
    assert unrest(Comparison({"torch before": calm, "torch after": calm}, {})) == ()
    (note,) = unrest(Comparison({"torch before": calm, "torch after": restless}, {}))
    assert note.startswith("the machine was busy: half of the times of torch after spread over 50% of their median;")


@pytest.mark.parametrize(("repeats", "threads"), [(1, None), (2, 0)])
def test_impossible_measurements(result: graphopt.Result, repeats: int, threads: int | None) -> None:
    with pytest.raises(SpecError, match=f"found repeats={repeats}, warm_up=3 and threads={threads}, wanted at least 2"):
        benchmark(result, repeats=repeats, threads=threads)


def test_a_missing_runtime_is_named(result: graphopt.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'graphopt\[onnx\]'"):
        benchmark(result)
