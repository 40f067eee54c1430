from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from graphopt.kernels import channel_statistics, find_kernel

KERNEL = find_kernel("split_group_norm")
TARGET = "graphopt.kernels.split_group_norm:split_group_norm"
FLOATS = (torch.float32, torch.float16)
HALVES = ("first", "second")
KNOWN = ("", "first", "second", "first second")


def arguments(
    first: tuple[int, ...],
    width: int,
    groups: int,
    *,
    affine: bool = True,
    silu: bool = True,
    known: str = "",
    mean: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Any, ...]:
    """Arguments of a first half of a shape and a second one with `width` channels; `known` tells whose statistics."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device)

    halves = [(mean + draw(first[0], channels, *first[2:])).to(dtype) for channels in (first[1], width)]
    channels = first[1] + width
    weight, bias = (draw(channels).to(dtype), draw(channels).to(dtype)) if affine else (None, None)
    statistics = [
        channel_statistics.reference(half) if name in known.split() else None
        for half, name in zip(halves, HALVES, strict=True)
    ]
    return *halves, groups, weight, bias, 1e-5, silu, *statistics


def mapped(given: tuple[Any, ...], function: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return tuple(function(value) if isinstance(value, Tensor) else value for value in given)


def halves(given: tuple[Any, ...], function: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """The same with another layout of both halves."""
    return function(given[0]), function(given[1]), *given[2:]


def last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d)


def sliced(tensor: Tensor) -> Tensor:
    """The same values as a part of the channels of a larger tensor."""
    return torch.cat([tensor, tensor, tensor], 1)[:, tensor.shape[1] : 2 * tensor.shape[1]]


def tokens(tensor: Tensor) -> Tensor:
    """The same values as a transposed sequence of tokens."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def exact(given: tuple[Any, ...]) -> Tensor:
    """The plain group norm of the concatenation, whatever is known of it."""
    found: Tensor = KERNEL.reference(*mapped(given[:7], Tensor.double))
    return found


CASES = {
    "aligned groups": lambda dtype: arguments((2, 6, 5, 7), 6, 4, dtype=dtype),
    "groups straddle the halves": lambda dtype: arguments((2, 6, 5, 7), 3, 3, silu=False, dtype=dtype),
    "one group": lambda dtype: arguments((2, 5, 3, 3), 3, 1, dtype=dtype),
    "groups of one channel": lambda dtype: arguments((1, 4, 9), 3, 7, dtype=dtype),
    "one dimension": lambda dtype: arguments((2, 6, 33), 4, 2, affine=False, dtype=dtype),
    "three dimensions": lambda dtype: arguments((1, 5, 2, 3, 5), 7, 4, dtype=dtype),
    "no space": lambda dtype: arguments((3, 6), 4, 2, dtype=dtype),
    "one position": lambda dtype: arguments((2, 6, 1, 1), 4, 5, dtype=dtype),
    "one channel each": lambda dtype: arguments((2, 1, 11), 1, 1, dtype=dtype),
    "weights alone": lambda dtype: (*arguments((2, 4, 9), 4, 2, dtype=dtype)[:4], None, 1e-5, False, None, None),
    "bias alone": lambda dtype: replaced(arguments((2, 4, 9), 4, 2, dtype=dtype), 3, None),
    "several blocks": lambda dtype: arguments((1, 2, 1500), 1, 1, dtype=dtype),
    "large groups": lambda dtype: arguments((1, 69, 5), 70, 1, dtype=dtype),
    "large epsilon": lambda dtype: replaced(arguments((2, 4, 9), 4, 2, dtype=dtype), 5, 0.5),
    "far from zero": lambda dtype: arguments((2, 4, 5, 7), 4, 2, mean=8.0, dtype=dtype),
    "known statistics": lambda dtype: arguments((2, 6, 5, 7), 3, 3, known="second", dtype=dtype),
    "known statistics of the first": lambda dtype: arguments((2, 6, 5, 7), 3, 3, known="first", dtype=dtype),
    "known statistics of both": lambda dtype: arguments((2, 6, 5, 7), 3, 3, known="first second", dtype=dtype),
    "known statistics of aligned groups": lambda dtype: arguments((2, 6, 35), 6, 4, known="second", dtype=dtype),
    "channels last": lambda dtype: halves(arguments((2, 6, 5, 7), 42, 3, dtype=dtype), last),
    "channels last in pieces": lambda dtype: halves(arguments((1, 4, 23, 31), 2, 2, dtype=dtype), last),
    "channels last, statistics known": lambda dtype: halves(
        arguments((1, 4, 23, 31), 5, 3, known="second", dtype=dtype), last
    ),
    "channels last, statistics of the first known": lambda dtype: halves(
        arguments((1, 4, 23, 31), 5, 3, known="first", dtype=dtype), last
    ),
    "channels last, three dimensions": lambda dtype: halves(arguments((1, 4, 2, 3, 5), 4, 2, dtype=dtype), last),
    "one half with channels last": lambda dtype: replaced(
        arguments((2, 4, 5, 7), 4, 2, dtype=dtype), 1, last(torch.randn(2, 4, 5, 7).to(dtype))
    ),
    "parts of larger tensors": lambda dtype: halves(arguments((2, 5, 5, 7), 4, 3, dtype=dtype), sliced),
    "tokens": lambda dtype: halves(arguments((2, 5, 9), 4, 3, dtype=dtype), tokens),
    "one sample for all": lambda dtype: halves(
        arguments((1, 4, 9), 4, 2, dtype=dtype), lambda tensor: tensor.expand(3, -1, -1)
    ),
}


def replaced(given: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return *given[:place], value, *given[place + 1 :]


def special(dtype: torch.dtype, *, known: str = "") -> tuple[Any, ...]:
    """NaN and infinities in three of four groups of one sample."""
    given = arguments((2, 6, 9), 6, 4, silu=False, dtype=dtype)
    given[0][0, 0, 3], given[0][0, 4, 0], given[1][0, 2, 8] = torch.nan, torch.inf, -torch.inf
    for place, half in enumerate(HALVES):
        if half in known.split():
            given = replaced(given, 7 + place, channel_statistics.reference(given[place]))
    return given


class TestReference:
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("silu", [True, False])
    @pytest.mark.parametrize(("width", "groups"), [(6, 4), (3, 3)])
    def test_equals_the_unfused_operations_bit_for_bit(
        self, width: int, groups: int, silu: bool, dtype: torch.dtype
    ) -> None:
        given = arguments((2, 6, 5, 7), width, groups, silu=silu, dtype=dtype)
        first, second, _, weight, bias, eps, *_ = given
        normed = F.group_norm(torch.cat([first, second], dim=1), groups, weight, bias, eps)
        assert torch.equal(KERNEL.op(*given), F.silu(normed) if silu else normed)

    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("case", [name for name in CASES if "known" in name])
    def test_with_known_statistics_is_as_near(self, case: str, dtype: torch.dtype, require_close: Any) -> None:
        given = CASES[case](dtype)
        found = KERNEL.reference(*given[:6], False, *given[7:])
        require_close(found, exact((*given[:6], False)))

    def test_known_statistics_are_what_is_normalised_with(self) -> None:
        given = arguments((1, 2, 4), 2, 1, affine=False, silu=False, known="second")
        statistics = torch.tensor([[[3.0, 0.0], [3.0, 0.0]]])
        moved = replaced(given, 8, statistics)
        assert not torch.equal(KERNEL.op(*given), KERNEL.op(*moved))
        centre = (given[0].mean() + 3) / 2
        found = KERNEL.op(*moved)
        torch.testing.assert_close(found[:, 2:] / found[0, 2, 0], (given[1] - centre) / (given[1][0, 0, 0] - centre))


PLAIN = arguments((2, 6, 5, 7), 3, 3)
EMPTY_SPACE = arguments((2, 6, 0, 7), 3, 3)
REASONS = [
    (PLAIN, None),
    (arguments((2, 6, 5, 7), 3, 3, known="second", dtype=torch.bfloat16), None),
    (halves(PLAIN, last), None),
    (halves(PLAIN, sliced), None),
    (halves(arguments((2, 6, 5), 3, 3), tokens), None),
    (replaced(PLAIN, 3, torch.ones(9).half()), None),
    (halves(PLAIN, Tensor.double), "first is torch.float64, which is none of float32, float16 and bfloat16"),
    (replaced(PLAIN, 1, PLAIN[1].half()), "second is torch.float16 and first is torch.float32"),
    (
        replaced(PLAIN, 1, torch.ones(2, 3, 7, 5)),
        "first is [2, 6, 5, 7] and second [2, 3, 7, 5], which differ in more than channels",
    ),
    (EMPTY_SPACE, "first is [2, 6, 0, 7] and second [2, 3, 0, 7], of which one is empty"),
    (arguments((2, 6, 5), 0, 3), "first is [2, 6, 5] and second [2, 0, 5], of which one is empty"),
    (replaced(PLAIN, 2, 4), "9 channels do not divide into 4 groups"),
    (arguments((1, 8192, 1), 1, 1), "a group has 8193 channels, more than the 8192 that one program merges"),
    (
        replaced(PLAIN, 0, torch.ones(2, 6, 7, 5).transpose(2, 3)),
        "the space of first does not lie in memory as one dimension",
    ),
    (
        replaced(PLAIN, 3, torch.ones(8)),
        "weight is torch.float32 [8], not a contiguous number for each of 9 channels",
    ),
    (replaced(PLAIN, 4, torch.ones(9, device="meta")), "bias is on meta and first on cpu"),
    (
        replaced(PLAIN, 7, torch.ones(2, 5, 2)),
        "the statistics of first are torch.float32 [2, 5, 2], not contiguous torch.float32 [2, 6, 2]",
    ),
    (
        replaced(PLAIN, 8, torch.ones(2, 6, 2)),
        "the statistics of second are torch.float32 [2, 6, 2], not contiguous torch.float32 [2, 3, 2]",
    ),
]


class TestContract:
    @pytest.mark.parametrize(("given", "reason"), REASONS)
    def test_supports(self, given: tuple[Any, ...], reason: str | None) -> None:
        assert KERNEL.supports(*given) == reason

    @pytest.mark.parametrize("layout", [torch.clone, last])
    def test_fake_and_meta_tensors(self, layout: Callable[[Tensor], Tensor]) -> None:
        given = halves(arguments((2, 6, 5, 7), 3, 3, known="second", dtype=torch.float16), layout)
        for arguments_ in (given, replaced(given, 8, None)):
            meta = KERNEL.op(*mapped(arguments_, lambda tensor: tensor.to("meta")))
            with FakeTensorMode() as mode:
                fakes = mapped(arguments_, mode.from_tensor)
                fake = KERNEL.op(*fakes)
                assert KERNEL.supports(*fakes) is None
            real = KERNEL.op(*arguments_)
            for found in (meta, fake):
                assert (found.shape, found.dtype) == (real.shape, real.dtype)
            assert fake.stride() == real.stride()

    @pytest.mark.parametrize(
        ("silu", "known", "before", "after"),
        [
            (True, "", 7 * 9, 3 * 9),
            (False, "", 5 * 9, 3 * 9),
            (True, "second", 7 * 9, 3 * 9 - 3),
            (True, "first", 7 * 9, 3 * 9 - 6),
            (True, "first second", 7 * 9, 2 * 9),
        ],
    )
    def test_bytes(self, silu: bool, known: str, before: int, after: int) -> None:
        given = arguments((2, 6, 8), 3, 3, silu=silu, known=known, dtype=torch.float16)
        channel = 2 * 8 * 2
        assert KERNEL.bytes_before(*given) == before * channel
        assert KERNEL.bytes_after(*given) == after * channel


class TestOperator:
    @pytest.mark.parametrize("gradient", [False, True])
    @pytest.mark.parametrize("known", KNOWN)
    def test_opcheck(self, known: str, gradient: bool) -> None:
        given = arguments((2, 6, 5, 7), 3, 3, known=known)
        torch.library.opcheck(KERNEL.op, mapped(given, lambda tensor: tensor.requires_grad_(gradient)))

    @pytest.mark.parametrize("known", KNOWN)
    def test_gradients(self, known: str) -> None:
        given = mapped(arguments((2, 3, 4), 3, 2, known=known), lambda tensor: tensor.double().requires_grad_())
        assert torch.autograd.gradcheck(KERNEL.op, given)

    def test_gradients_through_statistics_are_those_of_the_norm(self) -> None:
        given = mapped(arguments((2, 3, 4), 3, 2), lambda tensor: tensor.double().requires_grad_())
        found = KERNEL.op(*given[:7], *map(torch.ops.graphopt.channel_statistics, given[:2]))
        leaves = [value for value in given if isinstance(value, Tensor)]
        seed = torch.randn_like(found)
        wanted = torch.autograd.grad(KERNEL.op(*given), leaves, seed)
        torch.testing.assert_close(torch.autograd.grad(found, leaves, seed), wanted)


def far_out(dtype: torch.dtype) -> tuple[Any, ...]:
    """Where the exponential of SiLU overflows and vanishes."""
    return replaced(arguments((1, 2, 9), 2, 2, dtype=dtype), 4, torch.tensor([-200.0, -88.0, 200.0, 88.0]).to(dtype))


REFUSED = {
    "no sample": lambda dtype: arguments((0, 4, 5), 4, 2, dtype=dtype),
    "double": lambda dtype: arguments((2, 4, 5), 4, 2, dtype=torch.float64),
    "nothing behind": lambda dtype: arguments((2, 4, 5), 0, 2, dtype=dtype),
    "transposed space": lambda dtype: halves(
        arguments((2, 4, 5, 7), 4, 2, dtype=dtype), lambda tensor: tensor.transpose(2, 3)
    ),
}
SPECIAL = {
    "plain": special,
    "statistics known": lambda dtype: special(dtype, known="second"),
    "tokens": lambda dtype: halves(special(dtype), tokens),
}
INTERPRETED = {
    (name, dtype): make
    for dtype in FLOATS
    for name, make in {
        **CASES,
        "far out": far_out,
        **{f"special, {name}": make for name, make in SPECIAL.items()},
        **REFUSED,
    }.items()
}
MERGED_APART = {"large groups", "tokens", *(name for name in CASES if "channels last" in name)}


@pytest.fixture(scope="module")
def outcomes(interpreted: Any) -> dict[Any, Any]:
    """Arguments and outcome of every case, by name and dtype; all run in one process."""
    torch.manual_seed(0)
    cases = [make(dtype) for (_, dtype), make in INTERPRETED.items()]
    return dict(zip(INTERPRETED, zip(cases, interpreted(TARGET, cases), strict=True), strict=True))


@pytest.mark.xdist_group("split_group_norm")  # its cases are run once, by one worker
class TestInterpreted:
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", [*CASES, "far out"])
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any, require_close: Any) -> None:
        given, outcome = outcomes[case, dtype]
        (found,) = outcome.outputs
        assert outcome.launches == 3 - (case not in MERGED_APART) - ("of both" in case)
        assert found.dtype == dtype
        assert found.stride() == torch.cat(given[:2], 1).stride() or case == "tokens"
        require_close(found, exact(given))

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", SPECIAL)
    def test_nan_and_infinities_stay_in_their_groups(
        self, case: str, dtype: torch.dtype, outcomes: Any, require_close: Any
    ) -> None:
        given, outcome = outcomes[f"special, {case}", dtype]
        by_group = outcome.outputs[0].unflatten(1, (4, 3)).isnan().flatten(2)
        assert by_group.all(2).tolist() == [[True, True, True, False], [False] * 4]
        assert torch.equal(by_group.any(2), by_group.all(2))
        require_close(outcome.outputs[0], exact(given))

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("case", REFUSED)
    def test_what_it_does_not_take_goes_to_the_reference(self, case: str, dtype: torch.dtype, outcomes: Any) -> None:
        given, outcome = outcomes[case, dtype]
        assert outcome.launches == 0
        assert torch.equal(outcome.outputs[0], KERNEL.reference(*given))

    @pytest.mark.slow
    def test_long_rows_are_taken_in_pieces(self, interpreted: Any, require_close: Any) -> None:
        given = arguments((1, 1, 33000), 2, 1)
        known = arguments((1, 1, 33000), 2, 1, known="second")
        for values, outcome in zip((given, known), interpreted(TARGET, [given, known]), strict=True):
            assert outcome.launches == 3
            require_close(outcome.outputs[0], exact(values))


class TestOnGpu:
    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_reference(self, case: str, dtype: torch.dtype, require_close: Any) -> None:
        given = mapped(CASES[case](dtype), lambda tensor: tensor.cuda())
        assert KERNEL.supports(*given) is None
        require_close(KERNEL.op(*given), exact(given))

    @pytest.mark.gpu
    @pytest.mark.filterwarnings("ignore:TensorFloat32")
    @pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
    @pytest.mark.parametrize("layout", [torch.clone, last])
    @pytest.mark.parametrize("known", KNOWN)
    def test_eager_compiled_and_captured(
        self, known: str, layout: Callable[[Tensor], Tensor], dtype: torch.dtype, require_close: Any
    ) -> None:
        given = arguments((2, 320, 64, 64), 640, 32, known=known, dtype=dtype, device="cuda")
        given = halves(given, layout)
        compiled = torch.compile(lambda *values: KERNEL.op(*values), fullgraph=True)
        outputs = [KERNEL.op(*given), compiled(*given)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs.append(KERNEL.op(*given))
        graph.replay()
        for found in outputs:
            require_close(found, exact(given))
            assert torch.equal(found, outputs[0])

    @pytest.mark.gpu
    def test_beyond_offsets_of_32_bits(self, require_close: Any) -> None:
        halves_ = torch.randn(2, 1, 64, device="cuda").half().repeat(1, 1, 2**24 + 1)
        known = channel_statistics.channel_statistics(halves_)
        found = KERNEL.op(halves_, halves_, 2, None, None, 1e-5, False, known, known)
        wanted = KERNEL.reference(halves_[..., -64:], halves_[..., -64:], 2, None, None, 1e-5, False)
        torch.testing.assert_close(found[..., -64:], wanted, rtol=2e-3, atol=2e-3)

    @pytest.mark.gpu
    def test_opcheck(self) -> None:
        torch.library.opcheck(KERNEL.op, arguments((2, 6, 5, 7), 3, 3, device="cuda"))
