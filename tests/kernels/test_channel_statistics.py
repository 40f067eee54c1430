from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses.fake_tensor import FakeTensorMode

from graphopt.kernels import channel_statistics as module
from graphopt.kernels import find_kernel, moments

KERNEL = find_kernel("channel_statistics")
TARGET = "graphopt.kernels.channel_statistics:channel_statistics"
FLOATS = (torch.float32, torch.float16)


def drawn(*shape: int, mean: float = 0.0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return (mean + torch.randn(shape, device=device)).to(dtype)


def special(dtype: torch.dtype) -> Tensor:
    """NaN and infinities, each in a channel of its own."""
    x = drawn(1, 4, 9, dtype=dtype)
    x[0, 0, 3], x[0, 1, 0], x[0, 2, 8] = torch.nan, torch.inf, -torch.inf
    return x


CASES = {
    "one dimension": lambda dtype: drawn(2, 5, 7, dtype=dtype),
    "two dimensions": lambda dtype: drawn(2, 3, 5, 9, dtype=dtype),
    "three dimensions": lambda dtype: drawn(1, 3, 2, 5, 9, dtype=dtype),
    "no space": lambda dtype: drawn(3, 5, dtype=dtype),
    "one position": lambda dtype: drawn(3, 5, 1, 1, dtype=dtype),
    "one channel": lambda dtype: drawn(1, 1, 33, dtype=dtype),
    "several blocks": lambda dtype: drawn(1, 2, 2500, dtype=dtype),
    "channels last": lambda dtype: drawn(2, 37, 5, 7, dtype=dtype).to(memory_format=torch.channels_last),
    "channels last in pieces": lambda dtype: drawn(1, 3, 23, 31, dtype=dtype).to(memory_format=torch.channels_last),
    "part of the channels": lambda dtype: drawn(2, 8, 5, 7, dtype=dtype)[:, 3:6],
    "tokens": lambda dtype: drawn(2, 9, 6, dtype=dtype).transpose(1, 2),
    "far from zero": lambda dtype: drawn(1, 3, 300, mean=100.0, dtype=dtype),
}


def require_statistics(found: Tensor, x: Tensor, require_close: Any) -> None:
    """Mean relative to the largest number, and the sum of squares as the variance that it stands for."""
    exact = KERNEL.reference(x.double())
    count = x[0, 0].numel()
    assert found.dtype == torch.float32
    require_close(found[..., 0], exact[..., 0])
    # The mean is off by roundings of its own size, which the sum of squares sees squared.
    require_close(found[..., 1] / count, exact[..., 1] / count)


class TestReference:
    def test_mean_and_centred_sum_of_squares(self) -> None:
        x = torch.tensor([[[1.0, 2.0, 6.0], [-4.0, -4.0, -4.0]]])
        assert KERNEL.op(x).tolist() == [[[3.0, 14.0], [-4.0, 0.0]]]

    def test_is_what_var_mean_says(self) -> None:
        x = drawn(2, 3, 4, 5, dtype=torch.float64)
        variance, mean = torch.var_mean(x, (2, 3), correction=0)
        torch.testing.assert_close(KERNEL.op(x), torch.stack([mean, variance * 20], -1))

    def test_half_precision_is_summed_in_float32(self) -> None:
        x = torch.full((1, 1, 4096), 60000.0, dtype=torch.float16)
        assert KERNEL.op(x).tolist() == [[[float(x[0, 0, 0]), 0.0]]]


class TestContract:
    @pytest.mark.parametrize(
        ("x", "reason"),
        [
            (torch.ones(2, 3, 4), None),
            (torch.ones(2, 3, 4, 5, 6, dtype=torch.bfloat16), None),
            (torch.ones(2, 8, 4, 5)[:, ::2, :, :], None),
            (torch.ones(2, 3, 4).double(), "x is torch.float64, which is none of float32, float16 and bfloat16"),
            (torch.ones(2, 0, 4), "x is [2, 0, 4], which has no samples of channels"),
            (torch.ones(3), "x is [3], which has no samples of channels"),
            (torch.ones(2, 3, 4, 5).transpose(2, 3), "the space of x does not lie in memory as one dimension"),
            (torch.ones(2, 3, 4, 5)[..., ::2, :4], "the space of x does not lie in memory as one dimension"),
        ],
    )
    def test_supports(self, x: Tensor, reason: str | None) -> None:
        assert KERNEL.supports(x) == reason

    def test_fake_and_meta_tensors(self) -> None:
        x = drawn(2, 3, 4, 5, dtype=torch.float16)
        with FakeTensorMode() as mode:
            fake = KERNEL.op(mode.from_tensor(x))
        for found in (fake, KERNEL.op(x.to("meta"))):
            assert (found.shape, found.dtype, found.stride()) == ((2, 3, 2), torch.float32, (6, 2, 1))

    def test_bytes(self) -> None:
        x = drawn(2, 64, dtype=torch.float16)
        assert (KERNEL.bytes_before(x), KERNEL.bytes_after(x)) == (6 * 256, 256)


class Filled(nn.Module):
    """What fills a cache with a value and its statistics."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = x * 2
        return value, torch.ops.graphopt.channel_statistics(value)


class TestOperator:
    @pytest.mark.parametrize("gradient", [False, True])
    def test_opcheck(self, gradient: bool) -> None:
        torch.library.opcheck(KERNEL.op, (drawn(2, 3, 4, 5).requires_grad_(gradient),))

    def test_gradients(self) -> None:
        assert torch.autograd.gradcheck(KERNEL.op, drawn(2, 3, 2, 2, dtype=torch.float64).requires_grad_())

    def test_export_keeps_the_operator(self) -> None:
        axes = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO},)
        program = torch.export.export(Filled(), (drawn(2, 3, 4),), dynamic_shapes=axes, strict=False)
        assert [node.target for node in program.graph.nodes].count(KERNEL.op) == 1
        x = drawn(3, 3, 7)
        assert torch.equal(program.module()(x)[1], KERNEL.reference(x * 2))

    @pytest.mark.slow
    def test_inductor(self) -> None:
        compiled = torch.compile(Filled(), fullgraph=True)
        for batch in (2, 3):
            x = drawn(batch, 3, 7)
            torch.testing.assert_close(compiled(x), Filled()(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_onnx_runtime(self, tmp_path: Path) -> None:
        x = drawn(2, 3, 4, 5)
        plain = torch.export.export(Filled(), (x,), strict=False).run_decompositions({KERNEL.op: KERNEL.reference})
        torch.onnx.export(plain, f=tmp_path / "filled.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "filled.onnx", providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"x": x.numpy()})[1])
        torch.testing.assert_close(found, KERNEL.reference(x * 2), rtol=1e-5, atol=1e-5)

    def test_compiles_for_a_gpu_with_wide_accesses(self, compiled: Any) -> None:
        x = torch.zeros(2, 320, 64, 64, dtype=torch.bfloat16)
        for tensor, grid in ((x, (640, 1)), (x.to(memory_format=torch.channels_last), (20, 16))):
            place = moments.strided(tensor)
            assert place is not None
            (launch,) = compiled(moments, lambda place=place: moments.channel_moments(place, None, 1))
            assert launch.grid == grid
            assert "ld.global.v4.b32" in launch.ptx
            assert "ld.global.b16" not in launch.ptx

    def test_tracing_sees_the_launches(self, monkeypatch: pytest.MonkeyPatch, gpu_target: None) -> None:
        monkeypatch.setattr(module, "uses_triton", lambda *tensors: True)
        traced, _ = aot_export_module(Filled(), (drawn(2, 3, 5),), trace_joint=False)
        launches = [node for node in traced.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        assert [node.kwargs["tensors_to_clone"] for node in launches] == [["x_out", "y_out"], ["out"]]


REFUSED = {
    "double": lambda dtype: drawn(2, 3, 4, dtype=torch.float64),
    "transposed space": lambda dtype: drawn(2, 3, 4, 5, dtype=dtype).transpose(2, 3),
    "no sample": lambda dtype: drawn(0, 3, 4, dtype=dtype),
}
SPECIAL = {"nan and infinities": special}
INTERPRETED = {(name, dtype): make for dtype in FLOATS for name, make in {**CASES, **SPECIAL, **REFUSED}.items()}


@pytest.fixture(scope="module")
def outcomes(interpreted: Any) -> dict[Any, Any]:
    """Tensor and outcome of every case, by name and dtype; all run in one process."""
    torch.manual_seed(0)
    cases = [make(dtype) for (_, dtype), make in INTERPRETED.items()]
    found = interpreted(TARGET, [(x,) for x in cases])
    return dict(zip(INTERPRETED, zip(cases, found, strict=True), strict=True))


@pytest.mark.xdist_group("channel_statistics")  # its cases are run once, by one worker
class TestInterpreted:
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any, require_close: Any) -> None:
        x, outcome = outcomes[case, dtype]
        assert outcome.launches == 2
        require_statistics(outcome.outputs[0], x, require_close)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_nan_and_infinities_stay_in_their_channels(self, dtype: torch.dtype, outcomes: Any) -> None:
        x, outcome = outcomes["nan and infinities", dtype]
        assert outcome.launches == 2
        found, wanted = outcome.outputs[0][0], KERNEL.reference(x)[0]
        assert found[:3, 1].isnan().all()
        assert torch.equal(found.isnan(), wanted.isnan())
        torch.testing.assert_close(found[3], wanted[3])

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", REFUSED)
    def test_what_it_does_not_take_goes_to_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any) -> None:
        x, outcome = outcomes[case, dtype]
        assert outcome.launches == 0
        assert torch.equal(outcome.outputs[0], KERNEL.reference(x))

    @pytest.mark.slow
    def test_long_rows_are_taken_in_pieces(self, interpreted: Any, require_close: Any) -> None:
        x = drawn(1, 2, 33000)
        (outcome,) = interpreted(TARGET, [(x,)])
        require_statistics(outcome.outputs[0], x, require_close)


class TestOnGpu:
    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, require_close: Any) -> None:
        x = CASES[case](dtype).cuda()
        assert KERNEL.supports(x) is None
        require_statistics(KERNEL.op(x), x, require_close)

    @pytest.mark.gpu
    def test_opcheck(self) -> None:
        torch.library.opcheck(KERNEL.op, (drawn(2, 3, 4, 5, device="cuda"),))
