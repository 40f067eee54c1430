from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch.utils import _pytree as pytree

from graphopt.kernels import cached_apply as module
from graphopt.kernels import find_kernel

KERNEL = find_kernel("cached_apply")


class Block(nn.Module):
    """A cached attention followed by a live MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = nn.Linear(8, 3 * width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x: Tensor, cached: Tensor, time: Tensor) -> tuple[Tensor]:
        gate, scale, shift = self.time(time)[:, None].chunk(3, dim=-1)
        y, m = torch.ops.graphopt.cached_apply(x, [cached], [gate], None, None, scale, shift, "layer", 1e-6, False)
        return (y + self.mlp(m),)


def block_inputs(batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, tokens, 16), torch.randn(batch, tokens, 16), torch.randn(batch, 8)


def exported_block() -> tuple[Block, torch.export.ExportedProgram]:
    block = Block(16).eval()
    axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    shapes = (axes, axes, {0: torch.export.Dim.AUTO})
    return block, torch.export.export(block, block_inputs(2, 5), dynamic_shapes=shapes, strict=False)


class TestCompilers:
    def test_export_keeps_the_operator(self) -> None:
        block, program = exported_block()
        (node,) = [node for node in program.graph.nodes if node.target == KERNEL.op]
        assert KERNEL.supports(*pytree.tree_map_only(torch.fx.Node, lambda value: value.meta["val"], node.args)) is None
        inputs = block_inputs(3, 7)
        assert torch.equal(program.module()(*inputs)[0], block(*inputs)[0])

    @pytest.mark.slow
    def test_inductor(self) -> None:
        block = Block(16).eval()
        compiled = torch.compile(block, fullgraph=True)
        for batch, tokens in ((2, 5), (3, 7)):
            inputs = block_inputs(batch, tokens)
            torch.testing.assert_close(compiled(*inputs), block(*inputs), rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_onnx_runtime(self, tmp_path: Path) -> None:
        block, program = exported_block()
        plain = program.run_decompositions({KERNEL.op: KERNEL.reference})
        torch.onnx.export(plain, f=tmp_path / "block.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "block.onnx", providers=["CPUExecutionProvider"])
        for batch, tokens in ((2, 5), (3, 7)):
            inputs = block_inputs(batch, tokens)
            feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), inputs, strict=True)}
            found = torch.from_numpy(session.run(None, feeds)[0])
            torch.testing.assert_close(found, block(*inputs)[0].detach(), rtol=1e-5, atol=1e-5)

    def test_tracing_sees_the_launch_and_what_it_writes(
        self, monkeypatch: pytest.MonkeyPatch, gpu_target: None
    ) -> None:
        monkeypatch.setattr(module, "uses_triton", lambda *tensors: True)
        traced, _ = aot_export_module(Block(16), block_inputs(2, 8), trace_joint=False)
        (launch,) = [node for node in traced.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        assert launch.kwargs["tensors_to_clone"] == ["y", "m"]
