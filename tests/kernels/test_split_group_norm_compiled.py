"""What exporters and compilers make of a model with `split_group_norm`."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import aot_export_module

from graphopt.kernels import find_kernel
from graphopt.kernels import split_group_norm as module

KERNEL = find_kernel("split_group_norm")


class UpBlock(nn.Module):
    """The head of a U-Net's block behind a skip concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(3, 9)
        self.conv = nn.Conv2d(9, 4, 3, padding=1)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor]:
        op = torch.ops.graphopt.split_group_norm
        return (self.conv(op(first, second, 3, self.norm.weight, self.norm.bias, 1e-5, True)),)


def inputs(batch: int, side: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 6, side, side), torch.randn(batch, 3, side, side)


def exported() -> tuple[UpBlock, torch.export.ExportedProgram]:
    model = UpBlock().eval()
    axes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    return model, torch.export.export(model, inputs(2, 5), dynamic_shapes=(axes, axes), strict=False)


class TestCompilers:
    def test_export_keeps_the_operator(self) -> None:
        model, program = exported()
        assert [node.target for node in program.graph.nodes].count(KERNEL.op) == 1
        given = inputs(3, 7)
        assert torch.equal(program.module()(*given)[0], model(*given)[0])

    @pytest.mark.slow
    def test_inductor(self) -> None:
        model = UpBlock().eval()
        compiled = torch.compile(model, fullgraph=True)
        for batch, side in ((2, 5), (3, 7)):
            given = inputs(batch, side)
            torch.testing.assert_close(compiled(*given), model(*given), rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_onnx_runtime(self, tmp_path: Path) -> None:
        model, program = exported()
        plain = program.run_decompositions({KERNEL.op: KERNEL.reference})
        torch.onnx.export(plain, f=tmp_path / "up.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "up.onnx", providers=["CPUExecutionProvider"])
        for batch, side in ((2, 5), (3, 7)):
            given = inputs(batch, side)
            feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), given, strict=True)}
            found = torch.from_numpy(session.run(None, feeds)[0])
            torch.testing.assert_close(found, model(*given)[0].detach(), rtol=1e-5, atol=1e-5)

    def test_tracing_sees_them_and_what_they_write(self, monkeypatch: pytest.MonkeyPatch, gpu_target: None) -> None:
        monkeypatch.setattr(module, "uses_triton", lambda *tensors: True)
        traced, _ = aot_export_module(UpBlock().eval(), inputs(2, 5), trace_joint=False)
        launches = [node for node in traced.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        assert [node.kwargs["tensors_to_clone"] for node in launches] == [["x_out", "y_out"], ["out"]]

    def test_tracing_keeps_sizes_symbolic(self, monkeypatch: pytest.MonkeyPatch, gpu_target: None) -> None:
        graphs: list[torch.fx.Graph] = []

        def keep(graph_module: torch.fx.GraphModule, examples: Any) -> Any:
            graphs.append(graph_module.graph)
            return lambda *inputs: [torch.zeros(2, 4, 5, 5)]

        monkeypatch.setattr(module, "uses_triton", lambda *tensors: True)
        torch._dynamo.reset()
        backend = aot_autograd(fw_compiler=keep, inference_compiler=keep)
        with torch.no_grad():
            torch.compile(UpBlock().eval(), backend=backend, dynamic=True, fullgraph=True)(*inputs(2, 5))
        launches = [node for node in graphs[0].nodes if "triton_kernel_wrapper" in str(node.target)]
        assert [node.kwargs["tensors_to_clone"] for node in launches] == [["x_out", "y_out"], ["out"]]
        assert all(isinstance(node.kwargs["grid"][0][0], torch.fx.Node) for node in launches)
