"""torch.compile(model, backend="graphopt"): the same numbers from smaller graphs, and untouched ones where it must."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from backend.models import Perceptron, Recorder, image, masked, perceptron, row
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import prune

import graphopt

PROGRAM = """
import sys, torch
from torch import nn
assert "graphopt" in torch._dynamo.list_backends() and "graphopt" not in sys.modules
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval().requires_grad_(False)
model[0].weight[:4] = 0
model[0].bias[:4] = 0
compiled = torch.compile(model, backend="graphopt", options={"inner": "eager"})
x = torch.randn(3, 4)
print(torch.allclose(compiled(x), model(x), atol=1e-6), "graphopt.backend" in sys.modules)
"""


def compiled(model: Any, **options: Any) -> Any:
    settings = {name: options.pop(name) for name in ("dynamic", "fullgraph") if name in options}
    return torch.compile(model, backend="graphopt", options={"inner": "recorder", **options}, **settings)


def linear_rows(graph: torch.fx.GraphModule) -> list[int]:
    """Sizes of the biases of a graph's linear layers, on the example."""
    found = []
    for node in graph.graph.nodes:
        if node.op == "call_function" and "linear" in str(node.target):
            bias = node.args[2]
            found.append(len(graph.get_buffer(bias.target) if bias.op == "get_attr" else bias.meta["example_value"]))
    return found


def test_it_is_found_without_an_import() -> None:
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    assert done.stdout.split() == ["True", "True"]


@torch.no_grad()
def test_dead_channels_go_and_the_numbers_stay(recorder: Recorder) -> None:
    model, x = masked(), image()
    torch.testing.assert_close(compiled(model)(x), model(x), rtol=1e-6, atol=1e-6)
    [graph] = recorder.graphs
    shapes = {tuple(tensor.shape) for tensor in graph.buffers()}
    assert {(4, 3, 3, 3), (4,), (6, 4, 3, 3)} == shapes
    assert not any("head" in name for name in dict(graph.named_buffers()))


@pytest.mark.parametrize("inner", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_gradients_that_nothing_asks_for(inner: str) -> None:
    class Frozen(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    model = Frozen()
    model.load_state_dict(perceptron().state_dict())
    found = torch.compile(model, backend="graphopt", options={"inner": inner})(row())
    assert not found.requires_grad
    torch.testing.assert_close(found, model(row()))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("inner", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@torch.no_grad()
def test_inner_backends(inner: str) -> None:
    model = masked()
    fast = torch.compile(model, backend="graphopt", options={"inner": inner})
    for batch in (2, 3, 5):
        torch.testing.assert_close(fast(image(batch)), model(image(batch)), rtol=1e-5, atol=1e-6)
    model.norm.weight.fill_(1)
    torch.testing.assert_close(fast(image()), model(image()), rtol=1e-5, atol=1e-6)
    assert graphopt.invalidate(model) >= 1
    torch.testing.assert_close(fast(image()), model(image()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dynamic", [None, True, False])
@torch.no_grad()
def test_other_batches(recorder: Recorder, dynamic: bool | None) -> None:
    model = masked()
    fast = compiled(model, dynamic=dynamic)
    for batch in (2, 3, 5, 1):
        torch.testing.assert_close(fast(image(batch)), model(image(batch)), rtol=1e-6, atol=1e-6)
    assert all(list(graph.buffers()) for graph in recorder.graphs)
    assert len(recorder.graphs) == {None: 3, True: 2, False: 4}[dynamic]


@torch.no_grad()
def test_a_graph_break_makes_two_graphs(recorder: Recorder) -> None:
    class Broken(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x))
            torch._dynamo.graph_break()
            return self.second(torch.relu(self.third(hidden)))

    torch.manual_seed(0)
    model = Broken().eval()
    model.third = nn.Linear(8, 8)
    model.third.weight[:4] = 0
    model.third.bias[:4] = 0
    torch.testing.assert_close(compiled(model)(row()), model(row()))
    assert [len(list(graph.buffers())) for graph in recorder.graphs] == [0, 3]
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        compiled(model, fullgraph=True)(row())


@torch.no_grad()
def test_autocast_around(recorder: Recorder) -> None:
    model = masked()
    fast = compiled(model)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = fast(image()), model(image())
    assert found.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(fast(image()), model(image()))
    assert [len(list(graph.buffers())) > 0 for graph in recorder.graphs] == [True, True]


@pytest.mark.parametrize(("enabled", "rewritten"), [(True, False), (False, True)])
@torch.no_grad()
def test_autocast_inside(recorder: Recorder, caplog: pytest.LogCaptureFixture, enabled: bool, rewritten: bool) -> None:
    class Inside(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                return super().forward(x)

    model = Inside().eval()
    model.load_state_dict(perceptron().state_dict())
    with caplog.at_level(logging.DEBUG, "graphopt.backend"):
        found = compiled(model)(row())
    torch.testing.assert_close(found, model(row()), rtol=0, atol=1e-6)
    assert bool(list(recorder.graphs[0].buffers())) is rewritten
    assert ("the graph switches autocast inside; put autocast around the call of the model" in caplog.text) != rewritten


def test_inference_mode(recorder: Recorder) -> None:
    model = masked()
    fast = compiled(model)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image()), model(image()), rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(fast(image()), model(image()), rtol=1e-6, atol=1e-6)
    assert all(list(graph.buffers()) for graph in recorder.graphs)
    assert not any(tensor.is_inference() for graph in recorder.graphs for tensor in graph.buffers())


def test_parameters_made_under_inference_mode_are_left(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    with torch.inference_mode(), caplog.at_level(logging.DEBUG, "graphopt.backend"):
        model = perceptron()
        torch.testing.assert_close(compiled(model)(row()), model(row()))
    assert "first.weight was made under inference_mode" in caplog.text
    assert not list(recorder.graphs[0].buffers())


@torch.no_grad()
def test_threads(recorder: Recorder) -> None:
    model = masked()
    fast = compiled(model)
    wanted = {seed: model(image(seed=seed)) for seed in range(8)}
    found: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        with torch.no_grad():
            for _ in range(5):
                found[seed] = fast(image(seed=seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, output in wanted.items():
        torch.testing.assert_close(found[seed], output, rtol=1e-6, atol=1e-6)
    assert all(list(graph.buffers()) for graph in recorder.graphs)


@torch.no_grad()
def test_two_models_of_a_class(recorder: Recorder) -> None:
    models = [perceptron(0, dead=4), perceptron(1, dead=2), perceptron(2, dead=0)]
    fast = [compiled(model) for model in models]
    for _ in range(2):
        for one, model in zip(fast, models, strict=True):
            torch.testing.assert_close(one(row()), model(row()))
    assert [linear_rows(graph) for graph in recorder.graphs] == [[4, 3], [6, 3], [8, 3]]


@torch.no_grad()
def test_two_models_in_one_function(recorder: Recorder) -> None:
    one, other = perceptron(0, dead=4), perceptron(1, dead=2)

    def both(x: Tensor) -> Tensor:
        return one(x) + other(x)

    torch.testing.assert_close(compiled(both)(row()), both(row()))
    assert recorder.channels == [sorted([4, 4, 3, 6, 6, 3])]


@torch.no_grad()
def test_dynamo_reset_forgets(recorder: Recorder) -> None:
    model = perceptron()
    fast = compiled(model)
    fast(row())
    torch._dynamo.reset()
    assert graphopt.invalidate(model) == 0
    torch.testing.assert_close(fast(row()), model(row()))
    assert len(recorder.graphs) == 2


def test_training_is_left_alone(recorder: Recorder) -> None:
    model, twin = masked().train(), masked().train()
    fast = compiled(model)
    for one in (fast, twin):
        one(image()).square().sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad), name
    assert torch.equal(model.norm.running_mean, twin.norm.running_mean)
    assert not list(recorder.graphs[0].buffers())


def test_gradients_of_an_input_are_left_alone(recorder: Recorder) -> None:
    model = masked().requires_grad_(False)
    x = image().requires_grad_()
    compiled(model)(x).sum().backward()
    assert x.grad is not None
    assert not list(recorder.graphs[0].buffers())
    with torch.no_grad():
        compiled(model)(image())
    assert list(recorder.graphs[-1].buffers())


def test_a_forward_that_switches_gradients_off(recorder: Recorder) -> None:
    class Frozen(Perceptron):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    model = Frozen()
    model.load_state_dict(perceptron().state_dict())
    fast = compiled(model)
    for _ in range(2):
        found = fast(row())
        assert torch.is_grad_enabled()
        assert not found.requires_grad
        torch.testing.assert_close(found, model(row()))
        model.second.bias.data = torch.ones(3)
    assert recorder.channels == [[3, 4, 4], []]


@torch.no_grad()
def test_keywords_nested_outputs_and_plain_inputs(recorder: Recorder) -> None:
    class Nested(Perceptron):
        def forward(self, x: Tensor, *, scale: float, pair: dict[str, Tensor], name: str = "a") -> dict[str, Any]:
            out = super().forward(x) * scale + pair["shift"]
            return {"out": out, name: (out + 1, [x.shape[0], None])}

    model = Nested().eval()
    model.load_state_dict(perceptron().state_dict())
    fast = compiled(model)
    for batch, scale, name in ((2, 1.5, "a"), (3, 1.5, "a"), (4, 1.5, "b")):
        given: dict[str, Any] = {"scale": scale, "pair": {"shift": torch.ones(3)}, "name": name}
        found, wanted = fast(row(batch), **given), model(row(batch), **given)
        assert found.keys() == wanted.keys()
        torch.testing.assert_close(found["out"], wanted["out"])
        torch.testing.assert_close(found[name][0], wanted[name][0])
        assert found[name][1] == wanted[name][1] == [batch, None]
    assert all(list(graph.buffers()) for graph in recorder.graphs)


@torch.no_grad()
def test_masks_of_prune_become_physical(recorder: Recorder) -> None:
    model = perceptron(dead=0)
    prune.ln_structured(model.first, "weight", amount=0.5, n=2, dim=0)
    prune.custom_from_mask(model.first, "bias", model.first.weight_mask[:, 0])
    fast = compiled(model)
    torch.testing.assert_close(fast(row()), model(row()))
    held = dict(model.first.named_buffers())
    fast(row())
    assert torch.equal(model.first.weight, model.first.weight_orig * held["weight_mask"])
    assert any(len(tensor) == 4 for tensor in recorder.graphs[0].buffers())


@torch.no_grad()
def test_dense_models_are_handed_on_untouched(recorder: Recorder) -> None:
    model = perceptron(dead=0)
    counter = CompileCounterWithBackend("eager")
    plain = torch.compile(model, backend=counter)
    plain(row())
    fast = compiled(model)
    assert torch.equal(fast(row()), model(row()))
    assert recorder.graphs[0].code == counter.graphs[0].code


@torch.no_grad()
def test_fuel_and_verify(recorder: Recorder) -> None:
    model = masked()
    compiled(model, fuel=0)(image())
    assert not list(recorder.graphs[-1].buffers())
    torch._dynamo.reset()
    compiled(model, verify=False)(image())
    assert list(recorder.graphs[-1].buffers())


@torch.no_grad()
def test_a_wrong_rewrite_is_not_used(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(self: Any) -> dict[str, tuple[int, ...]]:
        return {group.id: (0,) for group in self._graph.groups}

    monkeypatch.setattr("graphopt.dependency.dead.DeadParts.kept", too_much)
    model = masked()
    assert torch.equal(compiled(model)(image()), model(image()))
    assert "runs as it is: VerificationError: unchanged: an output moved by" in caplog.text
    assert not list(recorder.graphs[0].buffers())


@torch.no_grad()
def test_a_failing_pass_leaves_the_graph(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("graphopt.dependency.dead.DeadParts.kept", fail)
    model = masked()
    assert torch.equal(compiled(model)(image()), model(image()))
    assert "ZeroDivisionError: of all things" in caplog.text
    assert not list(recorder.graphs[0].buffers())


@pytest.mark.parametrize("device_mode", [False, True])
@torch.no_grad()
def test_under_a_default_device(recorder: Recorder, device_mode: bool) -> None:
    model, x = masked(), image()
    fast = compiled(model)
    with torch.device("cpu") if device_mode else torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=1e-6)
    assert list(recorder.graphs[0].buffers())


class Looked(nn.Module):
    """A hidden layer with dead units, times an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rows, self.second = nn.Linear(4, 8), nn.Embedding(5, 8), nn.Linear(8, 3)
        nn.init.zeros_(self.first.weight[:4].detach())
        nn.init.zeros_(self.first.bias[:4].detach())

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x) * self.rows(index))
        return out


def test_a_call_that_fails_leaves_gradients_on(recorder: Recorder) -> None:
    model = Looked().eval().requires_grad_(False)
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder"})
    torch.testing.assert_close(fast(row(), torch.tensor([0, 1])), model(row(), torch.tensor([0, 1])))
    assert recorder.channels[0]
    with pytest.raises(IndexError):
        fast(row(), torch.tensor([0, 9]))
    assert torch.is_grad_enabled()
