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
from graphopt.kernels import relative_l1 as module

KERNEL = find_kernel("relative_l1")
TARGET = "graphopt.kernels.relative_l1:relative_l1"
FLOATS = (torch.float32, torch.float16)


def arguments(
    *shape: int,
    based: bool = True,
    threshold: float = 0.1,
    drift: float = 0.1,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Any, ...]:
    """A value whose residual moved a little, by `drift` in root mean square."""
    base, stored, change = (torch.randn(shape, device=device) for _ in range(3))
    residual = stored + drift * change
    value = (base + residual if based else residual).to(dtype)
    return value, base.to(dtype) if based else None, stored.to(dtype), threshold


def mapped(given: tuple[Any, ...], function: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return tuple(function(value) if isinstance(value, Tensor) else value for value in given)


def channels_last(given: tuple[Any, ...]) -> tuple[Any, ...]:
    return mapped(given, lambda tensor: tensor.to(memory_format=torch.channels_last))


def otherwise(given: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    """The same with one tensor that lies in memory otherwise."""
    return *given[:place], given[place].mT.contiguous().mT, *given[place + 1 :]


def zeros(*shape: int, value: float, dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments whose stored value is zero everywhere."""
    return torch.full(shape, value, dtype=dtype), None, torch.zeros(shape, dtype=dtype), 10.0


def rounded(dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments whose residual is what is stored once it is rounded to float16, and not before."""
    given = arguments(9, dtype=dtype)
    value, base = torch.full_like(given[0], 2048.0), torch.full_like(given[0], 0.5)
    return value, base, value - base, 0.0


def special(place: int, number: float, dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments with one number of one tensor that is none, or infinite."""
    given = arguments(3, 7, dtype=dtype)
    given[place].view(-1)[11] = number
    return given


CASES = {
    "small": lambda dtype: arguments(2, 5, 7, dtype=dtype),
    "without base": lambda dtype: arguments(2, 5, 7, based=False, dtype=dtype),
    "one element": lambda dtype: arguments(1, dtype=dtype),
    "no dimension": lambda dtype: arguments(dtype=dtype),
    "one block": lambda dtype: arguments(module.BLOCK, dtype=dtype),
    "a block and one": lambda dtype: arguments(module.BLOCK + 1, dtype=dtype),
    "several parts": lambda dtype: arguments(3, 1723, dtype=dtype),
    "channels last": lambda dtype: channels_last(arguments(2, 3, 4, 5, dtype=dtype)),
    "tokens of an image": lambda dtype: mapped(
        arguments(2, 3, 4, 5, dtype=dtype), lambda tensor: tensor.flatten(2).transpose(1, 2)
    ),
    "another base": lambda dtype: otherwise(arguments(2, 5, 7, dtype=dtype), 1),
    "another value": lambda dtype: otherwise(arguments(2, 5, 7, dtype=dtype), 0),
    "another stored one": lambda dtype: otherwise(arguments(2, 5, 7, based=False, dtype=dtype), 2),
    "parts of longer ones": lambda dtype: mapped(arguments(2, 5, 7, dtype=dtype), lambda tensor: tensor[:, 2:]),
    "one sample": lambda dtype: mapped(arguments(1, 5, 7, dtype=dtype), lambda tensor: tensor[:, 2:].mT),
    "within": lambda dtype: arguments(99, threshold=0.2, dtype=dtype),
    "nothing moved": lambda dtype: arguments(99, based=False, threshold=0.0, drift=0.0, dtype=dtype),
    "what the residual is rounded by": lambda dtype: rounded(dtype),
    "stored zeros": lambda dtype: zeros(5, value=1.0, dtype=dtype),
    "zeros alone": lambda dtype: zeros(5, value=0.0, dtype=dtype),
    "nan in value": lambda dtype: special(0, torch.nan, dtype),
    "nan in base": lambda dtype: special(1, torch.nan, dtype),
    "nan in stored": lambda dtype: special(2, torch.nan, dtype),
    "infinity in value": lambda dtype: special(0, torch.inf, dtype),
    "infinity in stored": lambda dtype: special(2, -torch.inf, dtype),
}


def require_probe(outputs: Any, given: tuple[Any, ...], require_close: Any) -> None:
    """The residual as PyTorch rounds it, its exact distance from what is stored, and the decision that follows."""
    residual, distance, within = outputs
    value, _, stored, threshold = given
    torch.testing.assert_close(residual, KERNEL.reference(*given)[0], rtol=0, atol=0, equal_nan=True)
    assert (residual.dtype, residual.stride()) == (value.dtype, KERNEL.reference(*given)[0].stride())
    assert distance.dtype == value.dtype
    require_close(distance, (stored.double() - residual.double()).abs().mean() / stored.double().abs().mean())
    assert within.dtype == torch.bool
    assert torch.equal(within, distance <= threshold)


class TestReference:
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("based", [True, False])
    def test_equals_the_unfused_operations_bit_for_bit(self, based: bool, dtype: torch.dtype) -> None:
        aten = torch.ops.aten
        given = arguments(3, 5, based=based, dtype=dtype)
        value, base, stored, threshold = given
        fresh = value if base is None else aten.sub.Tensor(value, base)
        moved = aten.mean.default(aten.abs.default(aten.sub.Tensor(stored, fresh)))
        distance = aten.div.Tensor(moved, aten.mean.default(aten.abs.default(stored)))
        found = KERNEL.op(*given)
        assert torch.equal(found[0], fresh)
        assert torch.equal(found[1], distance)
        assert torch.equal(found[2], distance <= threshold)

    @pytest.mark.parametrize(("threshold", "near"), [(0.25, True), (0.2499, False), (-1.0, False)])
    def test_the_threshold_itself_is_near(self, threshold: float, near: bool) -> None:
        stored = torch.tensor([1.0, -1.0, 2.0, 4.0])
        _, distance, within = KERNEL.op(stored + torch.tensor([0.5, -0.5, 0.5, 0.5]), None, stored, threshold)
        assert distance == 0.25
        assert within.item() is near

    @pytest.mark.parametrize(("value", "distance"), [(1.0, "inf"), (0.0, "nan")])
    def test_stored_zeros_are_never_near(self, value: float, distance: str) -> None:
        _, found, within = KERNEL.op(*zeros(3, value=value, dtype=torch.float32))
        assert str(found.item()) == distance
        assert not within

    def test_the_residual_without_a_base_has_memory_of_its_own(self) -> None:
        given = arguments(5, based=False)
        assert KERNEL.op(*given)[0].data_ptr() != given[0].data_ptr()

    def test_the_decision_has_no_gradient(self) -> None:
        outputs = KERNEL.op(*mapped(arguments(5), lambda tensor: tensor.requires_grad_()))
        assert [output.requires_grad for output in outputs] == [True, True, False]


class TestContract:
    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (arguments(2, 5), None),
            (arguments(2, 5, based=False, dtype=torch.bfloat16), None),
            (channels_last(arguments(2, 3, 4, 5)), None),
            (
                arguments(2, 5, dtype=torch.float64),
                "value is torch.float64, which is none of float32, float16 and bfloat16",
            ),
            (arguments(0, 5), "value is empty"),
            (mapped(arguments(2, 5), Tensor.t), None),
            (mapped(arguments(2, 3, 4, 5), lambda tensor: tensor.flatten(2).mT), None),
            (mapped(arguments(2, 5), lambda tensor: tensor[:, 1:]), None),
            (mapped(arguments(1, 5), lambda tensor: tensor.expand(3, 5)), "value overlaps itself in memory"),
            ((*arguments(3, 5)[:2], torch.ones(1, 5).expand(3, 5), 0.1), None),
            ((*arguments(2, 5)[:2], torch.ones(5), 0.1), "stored is [5] and value is [2, 5]"),
            ((*arguments(2, 5)[:2], torch.ones(5, 2).t(), 0.1), None),
            (
                (*arguments(2, 5)[:2], torch.ones(2, 5).half(), 0.1),
                "stored is torch.float16 and value is torch.float32",
            ),
        ],
    )
    def test_supports(self, given: tuple[Any, ...], reason: str | None) -> None:
        assert KERNEL.supports(*given) == reason

    def test_fake_and_meta_tensors(self) -> None:
        given = channels_last(arguments(2, 3, 4, 5, dtype=torch.float16))
        meta = KERNEL.op(*mapped(given, lambda tensor: tensor.to("meta")))
        with FakeTensorMode() as mode:
            fakes = mapped(given, mode.from_tensor)
            fake = KERNEL.op(*fakes)
            assert KERNEL.supports(*fakes) is None
        for outputs in (meta, fake):
            for found, real in zip(outputs, KERNEL.op(*given), strict=True):
                assert (found.shape, found.dtype, found.stride()) == (real.shape, real.dtype, real.stride())

    @pytest.mark.parametrize(("based", "before", "after"), [(True, 12, 4), (False, 11, 3)])
    def test_bytes(self, based: bool, before: int, after: int) -> None:
        given = arguments(2, 64, based=based, dtype=torch.float16)
        assert KERNEL.bytes_before(*given) == before * 256
        assert KERNEL.bytes_after(*given) == after * 256

    def test_copies_are_counted(self) -> None:
        value, base, stored, threshold = arguments(2, 64, dtype=torch.float16)
        permuted = torch.empty(64, 2, dtype=torch.float16).t()
        sliced = torch.empty(2, 99, dtype=torch.float16)[:, :64]
        for given, after in (
            ((permuted, permuted, permuted), 4),
            ((value, permuted, stored), 6),
            ((permuted, base, stored), 8),
            ((sliced, sliced, stored), 8),
            ((sliced, sliced, permuted), 10),
        ):
            assert KERNEL.bytes_after(*given, threshold) == after * 256
            assert KERNEL.bytes_after(*given, threshold) < KERNEL.bytes_before(*given, threshold)


class Probe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(8, 8)

    def forward(self, x: Tensor, stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residual, distance, within = torch.ops.graphopt.relative_l1(x + self.block(x), x, stored, 0.1)
        return residual * 2, distance, within


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 8), torch.randn(batch, 8)


def exported() -> tuple[Probe, torch.export.ExportedProgram]:
    model = Probe().eval()
    axis = {0: torch.export.Dim.AUTO}
    return model, torch.export.export(model, inputs(3), dynamic_shapes=(axis, axis), strict=False)


class TestCompilers:
    @pytest.mark.parametrize("gradient", [False, True])
    @pytest.mark.parametrize("based", [True, False])
    def test_opcheck(self, based: bool, gradient: bool) -> None:
        given = arguments(2, 3, based=based)
        torch.library.opcheck(KERNEL.op, mapped(given, lambda tensor: tensor.requires_grad_(gradient)))

    @pytest.mark.parametrize("based", [True, False])
    def test_gradients(self, based: bool) -> None:
        given = mapped(arguments(2, 3, based=based), lambda tensor: tensor.double().requires_grad_())
        assert torch.autograd.gradcheck(lambda *values: KERNEL.op(*values)[:2], given)

    def test_export_keeps_the_operator(self) -> None:
        model, program = exported()
        assert [node.target for node in program.graph.nodes].count(KERNEL.op) == 1
        given = inputs(5)
        for found, wanted in zip(program.module()(*given), model(*given), strict=True):
            assert torch.equal(found, wanted)

    @pytest.mark.slow
    def test_inductor(self) -> None:
        model = Probe().eval()
        compiled = torch.compile(model, fullgraph=True)
        for batch in (3, 5):
            given = inputs(batch)
            torch.testing.assert_close(compiled(*given), model(*given), rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_onnx_runtime(self, tmp_path: Path) -> None:
        model, program = exported()
        plain = program.run_decompositions({KERNEL.op: KERNEL.reference})
        torch.onnx.export(plain, f=tmp_path / "probe.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "probe.onnx", providers=["CPUExecutionProvider"])
        given = inputs(5)
        feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), given, strict=True)}
        for found, wanted in zip(session.run(None, feeds), model(*given), strict=True):
            torch.testing.assert_close(torch.as_tensor(found), wanted.detach(), rtol=1e-5, atol=1e-5)

    def test_compiles_for_a_gpu_with_wide_accesses(self, compiled: Any) -> None:
        given = arguments(2, 4096, 1152, dtype=torch.bfloat16)
        parts, compare = compiled(module, lambda: module._launch(*given))
        assert parts.grid == (922,)
        assert compare.grid == (1,)
        assert len(re.findall(r"ld\.global\.v4\.b32", parts.ptx)) == 3
        assert len(re.findall(r"st\.global\.v4\.b32", parts.ptx)) == 1
        assert "atom" not in parts.ptx + compare.ptx
        assert "red." not in re.sub(r"\.shared\.", "", parts.ptx + compare.ptx)

    def test_parts_are_few_and_cover_the_tensor(self, compiled: Any) -> None:
        for count in (1, module.BLOCK, module.BLOCK * module.PARTS, module.BLOCK * module.PARTS + 1):
            given = mapped(arguments(1, based=False), lambda tensor, count=count: tensor.expand(count))
            parts, compare = compiled(module, lambda given=given: module._launch(*given))
            (programs,) = parts.grid
            part = parts.arguments["part"]
            assert programs <= module.PARTS
            assert (programs - 1) * part < count <= programs * part
            assert compare.arguments["parts"] == programs

    def test_tracing_sees_the_launches_and_what_they_write(
        self, monkeypatch: pytest.MonkeyPatch, gpu_target: None
    ) -> None:
        monkeypatch.setattr(module, "uses_triton", lambda *tensors: True)
        traced, _ = aot_export_module(Probe().eval(), inputs(3), trace_joint=False)
        launches = [node for node in traced.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        assert [node.kwargs["tensors_to_clone"] for node in launches] == [["residual", "sums"], ["distance", "within"]]


REFUSED = {
    "empty": lambda dtype: arguments(0, 5, dtype=dtype),
    "another dtype": lambda dtype: replaced(arguments(2, 5, dtype=dtype), 2, torch.ones(2, 5, dtype=torch.float64)),
    "expanded": lambda dtype: mapped(arguments(1, 5, dtype=dtype), lambda tensor: tensor.expand(3, 5)),
}
INTERPRETED = {(name, dtype): make for dtype in FLOATS for name, make in {**CASES, **REFUSED}.items()}


def replaced(given: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return *given[:place], value, *given[place + 1 :]


@pytest.fixture(scope="module")
def outcomes(interpreted: Any) -> dict[Any, Any]:
    """Arguments and outcome of every case, by name and dtype; all run in one process."""
    torch.manual_seed(0)
    cases = [make(dtype) for (_, dtype), make in INTERPRETED.items()]
    return dict(zip(INTERPRETED, zip(cases, interpreted(TARGET, cases), strict=True), strict=True))


@pytest.mark.xdist_group("relative_l1")  # its cases are run once, by one worker
class TestInterpreted:
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any, require_close: Any) -> None:
        given, outcome = outcomes[case, dtype]
        assert outcome.launches == 2
        require_probe(outcome.outputs, given, require_close)

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", ["nothing moved", "what the residual is rounded by"])
    def test_what_is_stored_itself_is_at_no_distance(self, case: str, dtype: torch.dtype, outcomes: Any) -> None:
        _, outcome = outcomes[case, dtype]
        assert [output.item() for output in outcome.outputs[1:]] == [0.0, True]

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", REFUSED)
    def test_what_it_does_not_take_goes_to_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any) -> None:
        given, outcome = outcomes[case, dtype]
        assert outcome.launches == 0
        for found, wanted in zip(outcome.outputs, KERNEL.reference(*given), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)

    @pytest.mark.slow
    def test_parts_of_several_blocks(self, interpreted: Any, require_close: Any) -> None:
        given = arguments(module.PARTS * module.BLOCK + module.BLOCK + 3)
        (outcome,) = interpreted(TARGET, [given])
        assert outcome.launches == 2
        require_probe(outcome.outputs, given, require_close)


class TestOnGpu:
    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, require_close: Any) -> None:
        given = mapped(CASES[case](dtype), Tensor.cuda)
        assert KERNEL.supports(*given) is None
        require_probe(KERNEL.op(*given), given, require_close)

    @pytest.mark.gpu
    @pytest.mark.filterwarnings("ignore:TensorFloat32")
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    def test_eager_compiled_and_captured_the_same_bits(self, dtype: torch.dtype, require_close: Any) -> None:
        given = arguments(2, 4096, 1152, dtype=dtype, device="cuda")
        compiled = torch.compile(lambda *values: KERNEL.op(*values), fullgraph=True)
        outputs = [KERNEL.op(*given), KERNEL.op(*given), compiled(*given)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs.append(KERNEL.op(*given))
        graph.replay()
        for found in outputs:
            require_probe(found, given, require_close)
            assert all(torch.equal(*pair) for pair in zip(found, outputs[0], strict=True))

    @pytest.mark.gpu
    def test_beyond_offsets_of_32_bits(self) -> None:
        stored = torch.zeros(2**31 + 9, dtype=torch.float16, device="cuda")
        stored[-3:] = 1
        residual, distance, _ = KERNEL.op(stored * 3, None, stored, 0.1)
        assert residual[-4:].tolist() == [0, 3, 3, 3]
        assert distance == 2

    @pytest.mark.gpu
    def test_opcheck(self) -> None:
        torch.library.opcheck(KERNEL.op, arguments(2, 5, device="cuda"))
