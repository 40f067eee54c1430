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

from graphopt.kernels import find_kernel
from graphopt.kernels import taylor_add as module

KERNEL = find_kernel("taylor_add")
TARGET = "graphopt.kernels.taylor_add:taylor_add"
FLOATS = (torch.float32, torch.float16)


def arguments(
    *shape: int,
    orders: int = 2,
    based: bool = True,
    elapsed: float = 3.0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Any, ...]:
    base, value, *differences = [torch.randn(shape, device=device).to(dtype) for _ in range(orders + 2)]
    return base if based else None, value, differences, torch.full((), elapsed, device=device)


def mapped(given: tuple[Any, ...], function: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    leaves, spec = torch.utils._pytree.tree_flatten(list(given))
    leaves = [function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return tuple(torch.utils._pytree.tree_unflatten(leaves, spec))


def exact(given: tuple[Any, ...]) -> Tensor:
    found: Tensor = KERNEL.reference(*mapped(given, Tensor.double))
    return found


def channels_last(given: tuple[Any, ...]) -> tuple[Any, ...]:
    return mapped(given, lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x)


def special(dtype: torch.dtype) -> tuple[Any, ...]:
    given = arguments(8, orders=3, dtype=dtype)
    given[0][0], given[1][1], given[2][0][2], given[2][2][3] = torch.nan, torch.inf, -torch.inf, torch.nan
    given[1][4], given[2][0][4] = torch.inf, -torch.inf
    return given


CASES = {
    **{f"order {order}": lambda dtype, order=order: arguments(3, 11, orders=order, dtype=dtype) for order in range(5)},
    **{
        f"order {order} alone": lambda dtype, order=order: arguments(37, orders=order, based=False, dtype=dtype)
        for order in range(5)
    },
    "one element": lambda dtype: arguments(1, dtype=dtype),
    "no dimension": lambda dtype: arguments(dtype=dtype),
    "several blocks": lambda dtype: arguments(2, 3, 345, dtype=dtype),
    "one whole block": lambda dtype: arguments(1024, dtype=dtype),
    "channels last": lambda dtype: channels_last(arguments(2, 3, 4, 5, dtype=dtype)),
    "transposed": lambda dtype: mapped(arguments(2, 3, 5, dtype=dtype), lambda x: x.mT if x.dim() else x),
    "nothing elapsed": lambda dtype: arguments(9, elapsed=0.0, dtype=dtype),
    "before the value": lambda dtype: arguments(9, orders=3, elapsed=-1.5, dtype=dtype),
}


class TestReference:
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    def test_equals_the_unfused_operations_bit_for_bit(self, dtype: torch.dtype) -> None:
        aten = torch.ops.aten
        base, value, differences, elapsed = arguments(3, 5, orders=3, dtype=dtype)
        total = value
        for order, factor in ((1, 1), (2, 2), (3, 6)):
            weight = aten.div.Scalar(aten.pow.Tensor_Scalar(elapsed, order), factor)
            total = aten.add.Tensor(total, aten.mul.Tensor(differences[order - 1], weight))
        assert torch.equal(KERNEL.op(None, value, differences, elapsed), total)
        assert torch.equal(KERNEL.op(base, value, differences, elapsed), aten.add.Tensor(base, total))

    @pytest.mark.parametrize("order", range(5))
    def test_is_exact_for_polynomials(self, order: int) -> None:
        slopes = torch.randn(order + 1, 6, dtype=torch.float64)
        elapsed = torch.tensor(1.7, dtype=torch.float64)
        factorials = torch.tensor([1, 1, 2, 6, 24], dtype=torch.float64)
        wanted = sum(slopes[k] * elapsed**k / factorials[k] for k in range(order + 1))
        torch.testing.assert_close(KERNEL.op(None, slopes[0], [*slopes[1:]], elapsed), wanted)

    def test_without_differences_the_output_has_memory_of_its_own(self) -> None:
        value = torch.randn(4)
        found = KERNEL.op(None, value, [], torch.ones(()))
        assert torch.equal(found, value)
        assert found.data_ptr() != value.data_ptr()


class TestContract:
    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (arguments(2, 5), None),
            (arguments(2, 5, orders=0), None),
            (arguments(2, 5, orders=4, based=False, dtype=torch.bfloat16), None),
            (channels_last(arguments(2, 3, 4, 5)), None),
            (arguments(2, 5, orders=5), "there are 5 differences, and one launch takes 4"),
            (
                arguments(2, 5, dtype=torch.float64),
                "value is torch.float64, which is none of float32, float16 and bfloat16",
            ),
            (arguments(0, 5), "value is empty"),
            (mapped(arguments(2, 5), lambda x: x.t() if x.dim() else x), None),
            (mapped(arguments(2, 5), lambda x: x[:, 1:] if x.dim() else x), "value has gaps in memory"),
            ((torch.ones(5), *arguments(2, 5)[1:]), "base is [5] and value is [2, 5]"),
            (
                (torch.ones(5, 2).t(), *arguments(2, 5)[1:]),
                "base has the strides (1, 2) and value has (5, 1)",
            ),
            ((torch.ones(2, 5).half(), *arguments(2, 5)[1:]), "base is torch.float16 and value is torch.float32"),
            ((torch.ones(2, 5, device="meta"), *arguments(2, 5)[1:]), "base is on meta and value on cpu"),
            (
                (*arguments(2, 5)[:3], torch.ones(2)),
                "elapsed is torch.float32 of shape [2], not one floating-point number",
            ),
            ((*arguments(2, 5)[:3], torch.ones((), device="meta")), "elapsed is on meta and value on cpu"),
        ],
    )
    def test_supports(self, given: tuple[Any, ...], reason: str | None) -> None:
        assert KERNEL.supports(*given) == reason

    def test_fake_and_meta_tensors(self) -> None:
        given = channels_last(arguments(2, 3, 4, 5))
        meta = KERNEL.op(*mapped(given, lambda tensor: tensor.to("meta")))
        with FakeTensorMode() as mode:
            fakes = mapped(given, mode.from_tensor)
            fake = KERNEL.op(*fakes)
            assert KERNEL.supports(*fakes) is None
        real = KERNEL.op(*given)
        for found in (meta, fake):
            assert (found.shape, found.dtype, found.stride()) == (real.shape, real.dtype, real.stride())

    @pytest.mark.parametrize(("based", "before", "after"), [(True, 13, 5), (False, 10, 4)])
    def test_bytes(self, based: bool, before: int, after: int) -> None:
        given = arguments(2, 64, based=based, dtype=torch.float16)
        assert KERNEL.bytes_before(*given) == before * 256
        assert KERNEL.bytes_after(*given) == after * 256


class TestOperator:
    @pytest.mark.parametrize("gradient", [False, True])
    @pytest.mark.parametrize(("orders", "based"), [(0, True), (0, False), (2, True), (4, False)])
    def test_opcheck(self, orders: int, based: bool, gradient: bool) -> None:
        given = arguments(2, 3, orders=orders, based=based)
        torch.library.opcheck(KERNEL.op, mapped(given, lambda tensor: tensor.requires_grad_(gradient)))

    @pytest.mark.parametrize(("orders", "based"), [(0, True), (3, True), (2, False)])
    def test_gradients(self, orders: int, based: bool) -> None:
        given = mapped(arguments(2, 3, orders=orders, based=based), lambda x: x.double().requires_grad_())
        leaves, spec = torch.utils._pytree.tree_flatten(list(given))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def function(*inputs: Tensor) -> Any:
            remaining = iter(inputs)
            values = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return KERNEL.op(*torch.utils._pytree.tree_unflatten(values, spec))

        assert torch.autograd.gradcheck(function, tensors)


class Predicted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fresh = nn.Linear(8, 8)

    def forward(self, x: Tensor, value: Tensor, slope: Tensor, elapsed: Tensor) -> Tensor:
        total: Tensor = torch.ops.graphopt.taylor_add(self.fresh(x), value, [slope], elapsed) * 2
        return total


class Outputs(Predicted):
    """The same with its output in a tuple, as tracing wants it."""

    def forward(self, *given: Tensor) -> Any:
        return (super().forward(*given),)


def inputs(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 8), torch.randn(batch, 8), torch.randn(batch, 8), torch.tensor(2.0)


def exported() -> tuple[Predicted, torch.export.ExportedProgram]:
    model = Predicted().eval()
    axis = {0: torch.export.Dim.AUTO}
    return model, torch.export.export(model, inputs(3), dynamic_shapes=(axis, axis, axis, None), strict=False)


class TestCompilers:
    def test_export_keeps_the_operator(self) -> None:
        model, program = exported()
        assert [node.target for node in program.graph.nodes].count(KERNEL.op) == 1
        given = inputs(5)
        assert torch.equal(program.module()(*given), model(*given))

    @pytest.mark.slow
    def test_inductor(self) -> None:
        model = Predicted().eval()
        compiled = torch.compile(model, fullgraph=True)
        for batch in (3, 5):
            given = inputs(batch)
            torch.testing.assert_close(compiled(*given), model(*given), rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_onnx_runtime(self, tmp_path: Path) -> None:
        model, program = exported()
        plain = program.run_decompositions({KERNEL.op: KERNEL.reference})
        torch.onnx.export(plain, f=tmp_path / "predicted.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "predicted.onnx", providers=["CPUExecutionProvider"])
        given = inputs(5)
        feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), given, strict=True)}
        found = torch.from_numpy(session.run(None, feeds)[0])
        torch.testing.assert_close(found, model(*given).detach(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("orders", "loads"), [(0, 2), (1, 3), (4, 6)])
    def test_compiles_for_a_gpu_with_wide_accesses(self, orders: int, loads: int, compiled: Any) -> None:
        given = arguments(2, 8, 1152, orders=orders, dtype=torch.bfloat16)
        (launch,) = compiled(module, lambda: module._launch(*given))
        assert launch.grid == (18,)
        assert len(re.findall(r"ld\.global\.v4\.b32", launch.ptx)) == loads
        assert len(re.findall(r"st\.global\.v4\.b32", launch.ptx)) == 1
        # The one narrow load is that of the elapsed steps.
        assert len(re.findall(r"ld\.global\.b32", launch.ptx)) == (1 if orders else 0)

    def test_tracing_sees_the_launch_and_what_it_writes(
        self, monkeypatch: pytest.MonkeyPatch, gpu_target: None
    ) -> None:
        monkeypatch.setattr(module, "uses_triton", lambda *tensors: True)
        traced, _ = aot_export_module(Outputs().eval(), inputs(3), trace_joint=False)
        (launch,) = [node for node in traced.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        assert launch.kwargs["tensors_to_clone"] == ["out"]


REFUSED = {
    "empty": lambda dtype: arguments(0, 5, dtype=dtype),
    "five differences": lambda dtype: arguments(2, 5, orders=5, dtype=dtype),
    "another dtype": lambda dtype: (torch.ones(2, 5, dtype=torch.float64), *arguments(2, 5, dtype=dtype)[1:]),
    "sliced": lambda dtype: mapped(arguments(2, 5, dtype=dtype), lambda x: x[:, 1:] if x.dim() else x),
}
SPECIAL = {"nan and infinities": special}
INTERPRETED = {(name, dtype): make for dtype in FLOATS for name, make in {**CASES, **SPECIAL, **REFUSED}.items()}


@pytest.fixture(scope="module")
def outcomes(interpreted: Any) -> dict[Any, Any]:
    """Arguments and outcome of every case, by name and dtype; all run in one process."""
    torch.manual_seed(0)
    cases = [make(dtype) for (_, dtype), make in INTERPRETED.items()]
    return dict(zip(INTERPRETED, zip(cases, interpreted(TARGET, cases), strict=True), strict=True))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.xdist_group("taylor_add")  # its cases are run once, by one worker
class TestInterpreted:
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any, require_close: Any) -> None:
        given, outcome = outcomes[case, dtype]
        (found,) = outcome.outputs
        assert outcome.launches == 1
        assert (found.dtype, found.stride()) == (dtype, given[1].stride())
        require_close(found, exact(given))

    def test_nan_and_infinities(self, dtype: torch.dtype, outcomes: Any, require_close: Any) -> None:
        given, outcome = outcomes["nan and infinities", dtype]
        assert outcome.launches == 1
        assert outcome.outputs[0].isfinite().tolist() == [False] * 5 + [True] * 3
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
    def test_eager_compiled_and_captured(self, dtype: torch.dtype, require_close: Any) -> None:
        given = arguments(2, 257, 1152, orders=4, dtype=dtype, device="cuda")
        compiled = torch.compile(lambda *tensors: KERNEL.op(*tensors), fullgraph=True)
        outputs = [KERNEL.op(*given), compiled(*given)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs.append(KERNEL.op(*given))
        graph.replay()
        for found in outputs:
            require_close(found, exact(given))

    @pytest.mark.gpu
    def test_beyond_offsets_of_32_bits(self) -> None:
        value = torch.zeros(2**31 + 9, dtype=torch.float16, device="cuda")
        value[-3:] = 2
        found = KERNEL.op(value, value, [], torch.ones((), device="cuda"))
        assert found[-4:].tolist() == [0, 4, 4, 4]

    @pytest.mark.gpu
    def test_opcheck(self) -> None:
        torch.library.opcheck(KERNEL.op, arguments(2, 5, device="cuda"))
