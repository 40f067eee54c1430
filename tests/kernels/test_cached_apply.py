import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from graphopt.errors import SpecError
from graphopt.kernels import cached_apply as module
from graphopt.kernels import find_kernel, row_sums

KERNEL = find_kernel("cached_apply")
TARGET = "graphopt.kernels.cached_apply:cached_apply"
FLOATS = (torch.float32, torch.float16)
VARIES = "a gate, scale or shift varies over more than samples and channels"
DTYPES = "not every tensor has the input's dtype torch.float32"
DEVICES = "not every tensor is on the input's device cpu"


def arguments(
    *shape: int,
    count: int = 1,
    gated: bool = True,
    affine: bool = False,
    modulated: bool = True,
    norm: str = "layer",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Any, ...]:
    """Arguments as an adaLN block gives them: gates, scale and shift are parts of one projection."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device).to(dtype)

    parts = draw(shape[0], (count + 2) * shape[-1]).chunk(count + 2, dim=1)
    modulation = [part.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1]) for part in parts]
    cached = [draw(*shape) for _ in range(count)]
    gates = modulation[:count] if gated else []
    weight, bias = (draw(shape[-1]), draw(shape[-1])) if affine else (None, None)
    scale, shift = modulation[count:] if modulated else (None, None)
    return draw(*shape), cached, gates, weight, bias, scale, shift, norm, 1e-6, False


def changed(given: tuple[Any, ...], **values: Any) -> tuple[Any, ...]:
    names = ("x", "cached", "gates", "weight", "bias", "scale", "shift", "norm", "eps", "wide")
    return tuple(values.get(name, value) for name, value in zip(names, given, strict=True))


def mapped(given: tuple[Any, ...], function: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    leaves, spec = pytree.tree_flatten(list(given))
    leaves = [function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return tuple(pytree.tree_unflatten(leaves, spec))


def exact(given: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    y, m = KERNEL.reference(*mapped(given, Tensor.double))
    return y, m


CASES = {
    "one": lambda dtype: arguments(2, 5, 48, dtype=dtype),
    "power of two, five cached": lambda dtype: arguments(1, 4, 32, count=5, dtype=dtype),
    "four cached, rms": lambda dtype: arguments(2, 9, 33, count=4, norm="rms", affine=True, dtype=dtype),
    "nine cached, no gate": lambda dtype: arguments(2, 3, 31, count=9, gated=False, dtype=dtype),
    "two cached, weights alone": lambda dtype: arguments(3, 1, 7, count=2, affine=True, modulated=False, dtype=dtype),
    "one channel": lambda dtype: arguments(2, 3, 1, dtype=dtype),
    "four dimensions": lambda dtype: arguments(2, 3, 5, 17, count=3, dtype=dtype),
    "rows are samples": lambda dtype: arguments(5, 20, count=2, affine=True, dtype=dtype),
    "a vector": lambda dtype: changed(arguments(1, 19, dtype=dtype), **vector(19, dtype)),
    "transposed": lambda dtype: transposed(arguments(2, 6, 10, count=2, dtype=dtype)),
    "parts of longer samples": lambda dtype: sliced(arguments(2, 6, 10, count=2, dtype=dtype)),
    "parts of longer samples, no modulation": lambda dtype: sliced(
        arguments(2, 6, 10, count=5, gated=False, modulated=False, dtype=dtype)
    ),
    "mixed gates": lambda dtype: changed(arguments(3, 4, 12, count=3, dtype=dtype), gates=mixed_gates(12, dtype)),
    "one sample's gates for all": lambda dtype: changed(
        arguments(3, 4, 12, dtype=dtype), gates=[torch.randn(1, 1, 12).to(dtype)], scale=torch.ones(12, dtype=dtype)
    ),
    "scale alone": lambda dtype: changed(arguments(2, 5, 24, dtype=dtype), shift=None),
    "bias and shift alone": lambda dtype: changed(
        arguments(2, 5, 24, affine=True, dtype=dtype), weight=None, scale=None
    ),
    "far from zero": lambda dtype: changed(arguments(2, 3, 64, dtype=dtype), x=8 + torch.randn(2, 3, 64).to(dtype)),
}


def vector(channels: int, dtype: torch.dtype) -> dict[str, Any]:
    drawn = [torch.randn(channels).to(dtype) for _ in range(5)]
    return {"x": drawn[0], "cached": [drawn[1]], "gates": [drawn[2]], "scale": drawn[3], "shift": drawn[4]}


def transposed(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with rows that do not lie in memory one after another."""
    x, cached = given[0], given[1]
    first = x.transpose(1, 2).contiguous().transpose(1, 2)
    second = torch.stack([cached[0], cached[0]], dim=-1)[..., 0]
    assert not first.is_contiguous()
    assert not second.is_contiguous()
    return changed(given, x=first, cached=[second, *cached[1:]])


def sliced(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same without the first rows of every sample and of what is cached there."""
    return changed(given, x=given[0][:, 2:], cached=[tensor[:, 2:] for tensor in given[1]])


def mixed_gates(channels: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(*size).to(dtype) for size in ((3, 1, 1), (channels,), (3, 1, channels))]


def special(dtype: torch.dtype, **options: Any) -> tuple[Any, ...]:
    """NaN and infinities, each in a row of its own."""
    given = arguments(1, 6, 24, count=2, dtype=dtype, **options)
    x, cached = given[0].clone(), [tensor.clone() for tensor in given[1]]
    x[0, 0, 3], x[0, 1, 23], cached[0][0, 2, 0], cached[1][0, 3, 5] = torch.nan, torch.inf, -torch.inf, torch.nan
    x[0, 4, 7], cached[0][0, 4, 7] = torch.inf, torch.inf
    return changed(given, x=x, cached=cached, gates=[gate.abs() for gate in given[2]])


class TestReference:
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    def test_equals_the_unfused_operations_bit_for_bit(self, dtype: torch.dtype) -> None:
        given = arguments(2, 5, 48, dtype=dtype)
        x, (cached,), (gate,), _, _, scale, shift, _, eps, _ = given
        y = x + gate * cached
        m = F.layer_norm(y, (48,), None, None, eps) * (1 + scale) + shift
        found = KERNEL.op(*given)
        assert torch.equal(found[0], y)
        assert torch.equal(found[1], m)

    def test_rms_norm_with_weight_bit_for_bit(self) -> None:
        given = arguments(2, 5, 48, norm="rms", affine=True, modulated=False)
        x, (cached,), (gate,), weight, bias, _, _, _, eps, _ = given
        assert torch.equal(KERNEL.op(*given)[1], F.rms_norm(x + gate * cached, (48,), weight, eps) + bias)

    @pytest.mark.parametrize("count", [2, 5])
    def test_several_equal_one_after_another(self, count: int) -> None:
        given = arguments(2, 5, 24, count=count)
        y = given[0]
        for cached, gate in zip(given[1], given[2], strict=True):
            y, m = KERNEL.op(*changed(given, x=y, cached=[cached], gates=[gate]))
        found = KERNEL.op(*given)
        assert torch.equal(found[0], y)
        assert torch.equal(found[1], m)

    def test_without_gates_adds_what_is_cached(self) -> None:
        given = arguments(2, 5, 24, count=2, gated=False)
        ones = [torch.ones(24)] * 2
        assert torch.equal(KERNEL.op(*given)[0], KERNEL.op(*changed(given, gates=ones))[0])

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"cached": [], "gates": []}, "found 0 gates for 0 cached tensors"),
            ({"gates": [torch.ones(24)] * 2}, "found 2 gates for 1 cached tensors"),
            ({"norm": "batch"}, "found the norm 'batch'; wanted one of layer, rms"),
        ],
    )
    def test_refuses_what_has_no_meaning(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=re.escape(message)):
            KERNEL.op(*changed(arguments(2, 5, 24), **values))


class TestContract:
    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (arguments(2, 5, 24), None),
            (arguments(2, 5, 24, dtype=torch.bfloat16), None),
            (arguments(2, 5, 24, dtype=torch.float64), "the dtype is torch.float64"),
            (arguments(2, 0, 24), "the input has no rows"),
            (changed(arguments(2, 5, 24), x=torch.ones(5, 24).expand(2, 5, 24)), "the input overlaps itself in memory"),
            (arguments(1, 1, 16385), "a row has 16385 channels, more than 16384"),
            (changed(arguments(2, 5, 24), norm="batch"), "the norm 'batch' is none of layer, rms"),
            (changed(arguments(2, 5, 24), gates=[]), None),
            (changed(arguments(2, 5, 24), cached=[]), "there are 1 gates for 0 cached tensors"),
            (
                changed(arguments(2, 5, 24), cached=[torch.ones(5, 24)]),
                "a stored tensor does not have the input's shape",
            ),
            (changed(arguments(2, 5, 24), weight=torch.ones(1)), "weight or bias is not one value a channel"),
            (changed(arguments(2, 5, 24), scale=torch.ones(2, 5, 24)), VARIES),
            (changed(arguments(2, 2, 24), shift=torch.ones(2, 24)), VARIES),
            (changed(arguments(2, 5, 24), shift=torch.ones(24).half()), DTYPES),
            (changed(arguments(2, 5, 24), bias=torch.ones(24, device="meta")), DEVICES),
        ],
    )
    def test_supports(self, given: tuple[Any, ...], reason: str | None) -> None:
        assert KERNEL.supports(*given) == reason

    def test_fake_and_meta_tensors(self) -> None:
        given = arguments(2, 5, 24, count=2)
        meta = KERNEL.op(*mapped(given, lambda tensor: tensor.to("meta")))
        with FakeTensorMode() as mode:
            fakes = mapped(given, mode.from_tensor)
            fake = KERNEL.op(*fakes)
            assert KERNEL.supports(*fakes) is None
        real = KERNEL.op(*given)
        for found in (*meta, *fake):
            assert (found.shape, found.dtype, found.stride()) == (real[0].shape, real[0].dtype, real[0].stride())

    @pytest.mark.parametrize("count", [1, 3])
    def test_bytes_are_those_of_the_operations(self, count: int, moved_bytes: Any) -> None:
        given = arguments(2, 64, 32, count=count)
        size = given[0].numel() * 4
        small = (count + 2) * 2 * 32 * 4
        assert (
            KERNEL.bytes_before(*given)
            == moved_bytes(KERNEL.reference, *given) + small
            == (5 * count + 6) * size + small
        )
        assert KERNEL.bytes_after(*given) == (count + 3) * size + small
        assert KERNEL.bytes_after(*mapped(given, lambda tensor: tensor.to("meta"))) == (count + 3) * size + small


class TestOperator:
    @pytest.mark.parametrize("gradient", [False, True])
    @pytest.mark.parametrize("case", ["one", "two cached, weights alone", "nine cached, no gate", "mixed gates"])
    def test_opcheck(self, case: str, gradient: bool) -> None:
        given = mapped(CASES[case](torch.float32), lambda tensor: tensor.detach().requires_grad_(gradient))
        torch.library.opcheck(KERNEL.op, given)

    @pytest.mark.parametrize(
        "given",
        [
            arguments(2, 2, 3, count=2, affine=True, dtype=torch.float64),
            arguments(2, 2, 3, gated=False, modulated=False, norm="rms", dtype=torch.float64),
        ],
    )
    def test_gradients(self, given: tuple[Any, ...]) -> None:
        leaves, spec = pytree.tree_flatten(list(given))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def function(*tensors: Tensor) -> Any:
            values = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                values[place] = tensor
            return KERNEL.op(*pytree.tree_unflatten(values, spec))

        inputs = [leaves[place].detach().requires_grad_() for place in places]
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)

    def test_gradients_of_a_tensor_given_twice(self) -> None:
        given = arguments(2, 3, 4, modulated=False)
        gradients = []
        for compute in (KERNEL.op, KERNEL.reference):
            stream = given[0].clone().requires_grad_()
            y, m = compute(*changed(given, x=stream, cached=[stream]))
            (y.sum() + (m * torch.arange(4.0)).sum()).backward()
            gradients.append(stream.grad)
        assert torch.equal(*gradients)

    def test_gradients_where_only_one_output_is_read(self) -> None:
        given = arguments(2, 3, 4)
        gate = given[2][0].clone().requires_grad_()
        KERNEL.op(*changed(given, gates=[gate]))[0].sum().backward()
        assert gate.grad is not None
        torch.testing.assert_close(gate.grad, given[1][0].sum(dim=1, keepdim=True))


class TestCompiledForGpu:
    @pytest.mark.parametrize("count", [1, 4])
    def test_compiles_for_a_gpu_with_wide_accesses(self, count: int, compiled: Any) -> None:
        given = arguments(2, 8, 1152, count=count, affine=True, dtype=torch.bfloat16)
        (launch,) = compiled(row_sums, lambda: row_sums.launch(*given[:-1], keeps=True))
        assert launch.grid == (2 * 2,)
        accesses = re.findall(r"(ld|st)\.global[\w.:]*?\.(v4\.b32|\w+)(?= )", launch.ptx)
        assert {kind for kind, _ in accesses} == {"ld", "st"}
        assert {width for _, width in accesses} == {"v4.b32"}

    def test_more_than_four_take_several_launches(self, compiled: Any) -> None:
        given = arguments(2, 8, 32, count=9, dtype=torch.float16)
        launches = compiled(row_sums, lambda: row_sums.launch(*given[:-1], keeps=True))
        assert [launch.arguments["count"] for launch in launches] == [4, 4, 1]
        assert [launch.arguments["normalises"] for launch in launches] == [False, False, True]
        assert launches[1].arguments["x"] is launches[0].arguments["y"]
        assert [launch.arguments["y"].dtype for launch in launches] == [torch.float32, torch.float32, torch.float16]
        sizes = [launch.arguments[name].nbytes for launch in launches[:2] for name in ("y", "y")]
        assert KERNEL.bytes_after(*given) == 12 * given[0].nbytes + sum(sizes) + 11 * 2 * 32 * 2


REFUSED = {
    "no sample": lambda dtype: arguments(0, 5, 24, dtype=dtype),
    "no row": lambda dtype: arguments(2, 0, 24, dtype=dtype),
    "two dtypes": lambda dtype: changed(arguments(2, 5, 24, dtype=dtype), shift=torch.randn(24, dtype=torch.float64)),
}
SPECIAL = {"layer": special, "rms": lambda dtype: special(dtype, norm="rms")}
INTERPRETED = {(name, dtype): make for dtype in FLOATS for name, make in {**CASES, **SPECIAL, **REFUSED}.items()}


@pytest.fixture(scope="module")
def outcomes(interpreted: Any) -> dict[Any, Any]:
    """Arguments and outcome of every case, by name and dtype; all run in one process."""
    torch.manual_seed(0)
    cases = [make(dtype) for (_, dtype), make in INTERPRETED.items()]
    return dict(zip(INTERPRETED, zip(cases, interpreted(TARGET, cases), strict=True), strict=True))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.xdist_group("cached_apply")  # its cases are run once, by one worker
class TestInterpreted:
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any, require_close: Any) -> None:
        given, outcome = outcomes[case, dtype]
        assert outcome.launches == -(-len(given[1]) // module.AT_ONCE)
        assert outcome.outputs[0].stride() == KERNEL.reference(*given)[0].stride()
        for found, wanted in zip(outcome.outputs, exact(given), strict=True):
            assert found.dtype == dtype
            require_close(found, wanted)

    @pytest.mark.parametrize("norm", SPECIAL)
    def test_nan_and_infinities_stay_in_their_rows(
        self, norm: str, dtype: torch.dtype, outcomes: Any, require_close: Any
    ) -> None:
        given, outcome = outcomes[norm, dtype]
        assert outcome.launches == 1
        assert outcome.outputs[1].isfinite().all(dim=-1).tolist() == [[False] * 5 + [True]]
        for found, wanted in zip(outcome.outputs, exact(given), strict=True):
            require_close(found, wanted)

    @pytest.mark.parametrize("case", REFUSED)
    def test_what_it_does_not_take_goes_to_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any) -> None:
        given, outcome = outcomes[case, dtype]
        assert outcome.launches == 0
        for found, wanted in zip(outcome.outputs, KERNEL.reference(*given), strict=True):
            assert torch.equal(found, wanted)


class TestOnGpu:
    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, require_close: Any) -> None:
        given = mapped(CASES[case](dtype), Tensor.cuda)
        assert KERNEL.supports(*given) is None
        for found, wanted in zip(KERNEL.op(*given), exact(given), strict=True):
            require_close(found, wanted)

    @pytest.mark.gpu
    @pytest.mark.filterwarnings("ignore:TensorFloat32")
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    def test_at_full_size_eager_compiled_and_captured(self, dtype: torch.dtype, require_close: Any) -> None:
        given = arguments(2, 257, 1152, count=2, dtype=dtype, device="cuda")
        compiled = torch.compile(lambda *values: KERNEL.op(*values), fullgraph=True)
        eager, found = KERNEL.op(*given), compiled(*given)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = KERNEL.op(*given)
        graph.replay()
        for outputs in (eager, found, captured):
            for output, wanted in zip(outputs, exact(given), strict=True):
                require_close(output, wanted)

    @pytest.mark.gpu
    def test_opcheck(self) -> None:
        torch.library.opcheck(KERNEL.op, arguments(2, 5, 24, count=2, device="cuda"))
