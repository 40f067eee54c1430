import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from graphopt.errors import SpecError
from graphopt.kernels import find_kernel, row_sums
from graphopt.kernels import stack_apply as module

KERNEL = find_kernel("stack_apply")
TARGET = "graphopt.kernels.stack_apply:stack_apply"
FLOATS = (torch.float32, torch.float16)


def arguments(
    *shape: int,
    affine: bool = False,
    modulated: bool = True,
    norm: str = "layer",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Any, ...]:
    """Arguments as the head of a DiT gives them: shift and scale are the halves of one projection."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device).to(dtype)

    halves = draw(shape[0], *[1] * (len(shape) - 2), 2 * shape[-1]).chunk(2, dim=-1)
    shift, scale = halves if modulated else (None, None)
    weight, bias = (draw(shape[-1]), draw(shape[-1])) if affine else (None, None)
    return draw(*shape), draw(*shape), weight, bias, scale, shift, norm, 1e-6, False


def changed(given: tuple[Any, ...], **values: Any) -> tuple[Any, ...]:
    names = ("x", "stored", "weight", "bias", "scale", "shift", "norm", "eps", "wide")
    return tuple(values.get(name, value) for name, value in zip(names, given, strict=True))


def mapped(given: tuple[Any, ...], function: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return tuple(function(value) if isinstance(value, Tensor) else value for value in given)


def exact(given: tuple[Any, ...]) -> Tensor:
    wanted: Tensor = KERNEL.reference(*mapped(given, Tensor.double))
    return wanted


def special(dtype: torch.dtype, norm: str) -> tuple[Any, ...]:
    """NaN and infinities, each in a row of its own."""
    given = arguments(1, 5, 24, dtype=dtype, norm=norm)
    x, stored = given[0].clone(), given[1].clone()
    x[0, 0, 3], x[0, 1, 23], stored[0, 2, 0] = torch.nan, torch.inf, -torch.inf
    x[0, 3, 7], stored[0, 3, 7] = torch.inf, -torch.inf
    return changed(given, x=x, stored=stored)


def strided(dtype: torch.dtype) -> tuple[Any, ...]:
    """Rows that do not lie in memory one after another, and a stream that is a part of a longer one."""
    given = arguments(2, 6, 10, dtype=dtype)
    x, stored = torch.randn(2, 9, 10).to(dtype)[:, 3:], given[1].transpose(1, 2).contiguous().transpose(1, 2)
    assert not x.is_contiguous()
    assert not stored.is_contiguous()
    return changed(given, x=x, stored=stored)


CASES = {
    "head": lambda dtype: arguments(2, 5, 48, dtype=dtype),
    "weights, odd": lambda dtype: arguments(3, 7, 33, affine=True, dtype=dtype),
    "rms": lambda dtype: arguments(2, 9, 31, norm="rms", affine=True, dtype=dtype),
    "norm alone": lambda dtype: arguments(1, 4, 64, modulated=False, dtype=dtype),
    "one channel": lambda dtype: arguments(2, 3, 1, dtype=dtype),
    "four dimensions": lambda dtype: arguments(2, 3, 5, 17, dtype=dtype),
    "rows are samples": lambda dtype: arguments(5, 20, dtype=dtype),
    "one scale for all": lambda dtype: changed(arguments(3, 4, 12, dtype=dtype), scale=torch.randn(12).to(dtype)),
    "shift alone": lambda dtype: changed(arguments(2, 5, 24, dtype=dtype), scale=None),
    "strided": strided,
}
REFUSED = {
    "no sample": lambda dtype: arguments(0, 5, 24, dtype=dtype),
    "no row": lambda dtype: arguments(2, 0, 24, dtype=dtype),
    "stored broadcasts": lambda dtype: changed(arguments(2, 5, 24, dtype=dtype), stored=torch.ones(24, dtype=dtype)),
}
SPECIAL = {norm: lambda dtype, norm=norm: special(dtype, norm) for norm in ("layer", "rms")}
INTERPRETED = {(name, dtype): make for dtype in FLOATS for name, make in {**CASES, **SPECIAL, **REFUSED}.items()}


class TestReference:
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    def test_equals_the_unfused_operations_bit_for_bit(self, dtype: torch.dtype) -> None:
        given = arguments(2, 5, 48, affine=True, dtype=dtype)
        x, stored, weight, bias, scale, shift, _, eps, _ = given
        wanted = F.layer_norm(x + stored, (48,), weight, bias, eps) * (1 + scale) + shift
        assert torch.equal(KERNEL.op(*given), wanted)

    @pytest.mark.parametrize("norm", ["layer", "rms"])
    def test_is_the_norm_of_cached_apply(self, norm: str) -> None:
        x, stored, *rest = arguments(2, 5, 24, affine=True, norm=norm)
        assert torch.equal(KERNEL.op(x, stored, *rest), find_kernel("cached_apply").op(x, [stored], [], *rest)[1])

    def test_an_unknown_norm_is_refused(self) -> None:
        with pytest.raises(SpecError, match="found the norm 'batch'; wanted one of layer, rms"):
            KERNEL.op(*changed(arguments(2, 5, 24), norm="batch"))


class TestContract:
    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (arguments(2, 5, 24), None),
            (arguments(2, 5, 24, dtype=torch.bfloat16, norm="rms"), None),
            (changed(arguments(2, 5, 24), stored=torch.ones(24)), "a stored tensor does not have the input's shape"),
            (changed(arguments(2, 5, 24), norm="batch"), "the norm 'batch' is none of layer, rms"),
            (
                changed(arguments(2, 5, 24), scale=torch.ones(1, 5, 24)),
                "a gate, scale or shift varies over more than samples and channels",
            ),
        ],
    )
    def test_supports(self, given: tuple[Any, ...], reason: str | None) -> None:
        assert KERNEL.supports(*given) == reason

    def test_fake_and_meta_tensors(self) -> None:
        given = arguments(2, 5, 24, dtype=torch.float16)
        found = [KERNEL.op(*mapped(given, lambda tensor: tensor.to("meta")))]
        with FakeTensorMode() as mode:
            fakes = mapped(given, mode.from_tensor)
            found.append(KERNEL.op(*fakes))
            assert KERNEL.supports(*fakes) is None
        for output in found:
            assert (output.shape, output.dtype, output.stride()) == ((2, 5, 24), torch.float16, (120, 24, 1))

    def test_bytes_are_those_of_the_operations(self, moved_bytes: Any) -> None:
        given = arguments(2, 64, 32)
        size, small = given[0].nbytes, 2 * 2 * 32 * 4
        assert KERNEL.bytes_before(*given) == moved_bytes(KERNEL.reference, *given) + small == 9 * size + small
        assert KERNEL.bytes_after(*given) == 3 * size + small


class TestOperator:
    @pytest.mark.parametrize("gradient", [False, True])
    @pytest.mark.parametrize("case", ["head", "rms", "rows are samples"])
    def test_opcheck(self, case: str, gradient: bool) -> None:
        given = mapped(CASES[case](torch.float32), lambda tensor: tensor.detach().requires_grad_(gradient))
        torch.library.opcheck(KERNEL.op, given)

    @pytest.mark.parametrize("norm", ["layer", "rms"])
    def test_gradients(self, norm: str) -> None:
        *tensors, norm, eps, wide = arguments(2, 2, 3, affine=True, norm=norm, dtype=torch.float64)
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        assert torch.autograd.gradcheck(lambda *values: KERNEL.op(*values, norm, eps, wide), inputs)
        assert torch.autograd.gradgradcheck(lambda *values: KERNEL.op(*values, norm, eps, wide), inputs)


class Head(nn.Module):
    """What follows a stack on a step that reuses it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = nn.Linear(8, 2 * width)
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor, stored: Tensor, time: Tensor) -> tuple[Tensor]:
        shift, scale = self.time(time)[:, None].chunk(2, dim=-1)
        m = torch.ops.graphopt.stack_apply(x, stored, None, None, scale, shift, "layer", 1e-6, False)
        return (self.out(m),)


def head_inputs(batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, tokens, 16), torch.randn(batch, tokens, 16), torch.randn(batch, 8)


def exported_head() -> tuple[Head, torch.export.ExportedProgram]:
    head = Head(16).eval()
    axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    shapes = (axes, axes, {0: torch.export.Dim.AUTO})
    return head, torch.export.export(head, head_inputs(2, 5), dynamic_shapes=shapes, strict=False)


class TestCompilers:
    def test_export_keeps_the_operator(self) -> None:
        head, program = exported_head()
        assert [node.target for node in program.graph.nodes].count(KERNEL.op) == 1
        inputs = head_inputs(3, 7)
        assert torch.equal(program.module()(*inputs)[0], head(*inputs)[0])

    @pytest.mark.slow
    def test_inductor(self) -> None:
        head = Head(16).eval()
        compiled = torch.compile(head, fullgraph=True)
        for batch, tokens in ((2, 5), (3, 7)):
            inputs = head_inputs(batch, tokens)
            torch.testing.assert_close(compiled(*inputs), head(*inputs), rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_onnx_runtime(self, tmp_path: Path) -> None:
        head, program = exported_head()
        plain = program.run_decompositions({KERNEL.op: KERNEL.reference})
        torch.onnx.export(plain, f=tmp_path / "head.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "head.onnx", providers=["CPUExecutionProvider"])
        for batch, tokens in ((2, 5), (3, 7)):
            inputs = head_inputs(batch, tokens)
            feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), inputs, strict=True)}
            found = torch.from_numpy(session.run(None, feeds)[0])
            torch.testing.assert_close(found, head(*inputs)[0].detach(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_compiles_for_a_gpu_with_wide_accesses(self, dtype: torch.dtype, compiled: Any) -> None:
        given = arguments(2, 8, 3072, affine=True, dtype=dtype)
        x, stored, *rest = given[:-1]
        (launch,) = compiled(row_sums, lambda: row_sums.launch(x, [stored], [], *rest, keeps=False))
        assert launch.grid == (2 * 2,)
        accesses = re.findall(r"(ld|st)\.global[\w.:]*?\.(v4\.b32|\w+)(?= )", launch.ptx)
        assert {kind for kind, _ in accesses} == {"ld", "st"}
        assert {width for _, width in accesses} == {"v4.b32"}

    def test_tracing_sees_the_launch_and_what_it_writes(
        self, monkeypatch: pytest.MonkeyPatch, gpu_target: None
    ) -> None:
        monkeypatch.setattr(module, "uses_triton", lambda *tensors: True)
        traced, _ = aot_export_module(Head(16), head_inputs(2, 8), trace_joint=False)
        (launch,) = [node for node in traced.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        assert launch.kwargs["tensors_to_clone"] == ["m"]


@pytest.fixture(scope="module")
def outcomes(interpreted: Any) -> dict[Any, Any]:
    """Arguments and outcome of every case, by name and dtype; all run in one process."""
    torch.manual_seed(0)
    cases = [make(dtype) for (_, dtype), make in INTERPRETED.items()]
    return dict(zip(INTERPRETED, zip(cases, interpreted(TARGET, cases), strict=True), strict=True))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.xdist_group("stack_apply")  # its cases are run once, by one worker
class TestInterpreted:
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any, require_close: Any) -> None:
        given, outcome = outcomes[case, dtype]
        assert outcome.launches == 1
        (found,) = outcome.outputs
        assert found.dtype == dtype
        require_close(found, exact(given))

    @pytest.mark.parametrize("norm", SPECIAL)
    def test_nan_and_infinities_stay_in_their_rows(
        self, norm: str, dtype: torch.dtype, outcomes: Any, require_close: Any
    ) -> None:
        given, outcome = outcomes[norm, dtype]
        assert outcome.launches == 1
        assert outcome.outputs[0].isfinite().all(dim=-1).tolist() == [[False] * 4 + [True]]
        require_close(outcome.outputs[0], exact(given))

    @pytest.mark.parametrize("case", REFUSED)
    def test_what_it_does_not_take_goes_to_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any) -> None:
        given, outcome = outcomes[case, dtype]
        assert outcome.launches == 0
        assert torch.equal(outcome.outputs[0], KERNEL.reference(*given))


class TestOnGpu:
    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, require_close: Any) -> None:
        given = mapped(CASES[case](dtype), Tensor.cuda)
        assert KERNEL.supports(*given) is None
        require_close(KERNEL.op(*given), exact(given))

    @pytest.mark.gpu
    @pytest.mark.filterwarnings("ignore:TensorFloat32")
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    def test_at_full_size_eager_compiled_and_captured(self, dtype: torch.dtype, require_close: Any) -> None:
        given = arguments(2, 1025, 3072, dtype=dtype, device="cuda")
        compiled = torch.compile(lambda *values: KERNEL.op(*values), fullgraph=True)
        eager, found = KERNEL.op(*given), compiled(*given)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = KERNEL.op(*given)
        graph.replay()
        for output in (eager, found, captured):
            require_close(output, exact(given))

    @pytest.mark.gpu
    def test_opcheck(self) -> None:
        torch.library.opcheck(KERNEL.op, arguments(2, 5, 24, device="cuda"))
