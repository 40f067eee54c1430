"""Steps that wire a graph: maps, joins, cuts, regroupings, contractions, with sizes and dimensions of every kind."""

from collections.abc import Callable
from math import prod

from laws.draft import Draft, Picks, Value

WIDTHS = (6, 4, 8, 3, 5, 12, 2)
STEMS = ((6,), (4, 6), (6, 4), (8, 4, 4), (3, 4, 6), (12,), (4, 12), (6, 3, 3), (2, 3, 4))
Step = Callable[[Draft, Picks], list[Value]]
STEPS: dict[str, Step] = {}


def step(function: Step) -> Step:
    STEPS[function.__name__] = function
    return function


def deep(value: Value) -> bool:
    return value.rank > 0


def image(value: Value) -> bool:
    return value.rank in {2, 3}


def axis(value: Value, picks: Picks) -> int:
    """A dimension of a value, the batch left out: from 1."""
    return 1 + picks.below(value.rank)


@step
def stem(draft: Draft, picks: Picks) -> list[Value]:
    """A value whose every dimension is a weight's own, or whose first one is the positions of the input."""
    shape = STEMS[picks.below(len(STEMS))]
    if shape[:-1] == (4,) and picks.below(2):
        return draft.add(f"{draft.linear(5, shape[-1])}(x)")
    code = f"{draft.linear(20, prod(shape), again=bool(picks.below(2)))}(x.flatten(1))"
    return draft.add(code if len(shape) == 1 else f"{code}.unflatten(1, {shape})")


@step
def linear(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, deep)
    if value is None:
        return []
    width = WIDTHS[picks.below(len(WIDTHS))]
    return draft.add(f"{draft.linear(value.shape[-1], width, again=not picks.below(3))}({value})")


@step
def residual(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, deep)
    if value is None:
        return []
    inner, width = WIDTHS[picks.below(len(WIDTHS))], value.shape[-1]
    up, down = draft.linear(width, inner), draft.linear(inner, width)
    return draft.add(f"{value} + {down}(torch.relu({up}({value})))")


@step
def combine(draft: Draft, picks: Picks) -> list[Value]:
    """Two values of one shape, or one of them broadcast."""
    value = draft.value(picks)
    if value is None:
        return []
    sign = picks.one(("+", "*", "-"))
    other = draft.value(picks, lambda item: item.shape == value.shape and item is not value)
    if other is None:
        source = draft.value(picks)
        other = None if source is None else draft.fitted(source, value.shape)
    return [] if other is None else draft.add(f"{value} {sign} {other}")


@step
def broadcast(draft: Draft, picks: Picks) -> list[Value]:
    """A value of lower rank along the last dimensions or, with ones behind it, along the first."""
    value = draft.value(picks, lambda item: item.rank > 1)
    if value is None:
        return []
    other = draft.value(picks, lambda item: item.shape in {value.shape[-1:], value.shape[:1]})
    if other is None:
        return []
    ones = (1,) * (value.rank - 1)
    last = other.shape == value.shape[-1:] and picks.below(2) == 0
    sizes = (*ones, value.shape[-1]) if last else (value.shape[0], *ones)
    if sizes[0] != 1 and other.shape != value.shape[:1]:
        return []
    return draft.add(f"{value} * {other}.reshape(-1, {', '.join(map(str, sizes))})")


@step
def raw(draft: Draft, picks: Picks) -> list[Value]:
    """A parameter that enters by itself, along some of the dimensions."""
    value = draft.value(picks, deep)
    if value is None:
        return []
    shape = [1 if picks.below(2) else size for size in value.shape]
    return draft.add(f"{value} {picks.one(('+', '*'))} {draft.parameter(shape)}")


@step
def cat(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim = axis(value, picks)

    def fits(item: Value) -> bool:
        return item.rank == value.rank and all(
            one == other
            for place, (one, other) in enumerate(zip(item.shape, value.shape, strict=True), 1)
            if place != dim
        )

    parts = [value, *(part for _ in range(1 + picks.below(2)) if (part := draft.value(picks, fits)) is not None)]
    return draft.add(f"torch.cat([{', '.join(map(str, parts))}], {dim})")


@step
def stack(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks)
    if value is None:
        return []
    other = draft.value(picks, lambda item: item.shape == value.shape) or value
    return draft.add(f"torch.stack([{value}, {other}], {1 + picks.below(value.rank + 1)})")


@step
def cut(draft: Draft, picks: Picks) -> list[Value]:
    """A dimension in two or three parts."""
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim = axis(value, picks)
    size = value.shape[dim - 1]
    first = 1 + picks.below(max(1, size - 1))
    ways = (
        f"{value}.chunk(2, {dim})",
        f"{value}.split([{first}, {size - first}], {dim})",
        f"{value}.tensor_split(3, {dim})",
        f"{value}.split({first}, {dim})",
    )
    return draft.add(str(picks.one(ways))) if size > 1 else []


@step
def window(draft: Draft, picks: Picks) -> list[Value]:
    """A slice, with a step or without."""
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim = axis(value, picks)
    size = value.shape[dim - 1]
    start = picks.below(size)
    end = start + 1 + picks.below(size - start)
    stride = picks.one((1, 1, 2, 3))
    return draft.add(f"{value}[{':, ' * dim}{start}:{end}{'' if stride == 1 else f':{stride}'}]")


@step
def single(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim = axis(value, picks)
    if picks.below(2):
        return draft.add(f"{value}.select({dim}, {picks.below(value.shape[dim - 1])})")
    return draft.add(f"{value}.unbind({dim})") if value.shape[dim - 1] < 5 else []


@step
def written(draft: Draft, picks: Picks) -> list[Value]:
    """A slice of a copy is written to."""
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim, name = axis(value, picks), f"w{draft.operations}"
    size = value.shape[dim - 1]
    end = 1 + picks.below(size)
    shape = (*value.shape[: dim - 1], end, *value.shape[dim:])
    other = draft.value(picks, lambda item: item.shape == shape)
    sign = picks.one(("=", "+=", "*="))
    place = f"{name}[{':, ' * dim}:{end}]"
    return draft.add(name, [f"{name} = {value}.clone()", f"{place} {sign} {0.5 if other is None else other}"])


@step
def permute(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, lambda item: item.rank > 1)
    if value is None:
        return []
    left, order = list(range(1, value.rank + 1)), [0]
    while left:
        order.append(left.pop((1 + picks.below(len(left))) % len(left)))
    return draft.add(f"{value}.permute({', '.join(map(str, order))})")


@step
def merge(draft: Draft, picks: Picks) -> list[Value]:
    """Two neighbours become one dimension."""
    value = draft.value(picks, lambda item: item.rank > 1)
    if value is None:
        return []
    dim = 1 + picks.below(value.rank - 1)
    return draft.add(f"{value}.flatten({dim}, {dim + 1})")


@step
def split(draft: Draft, picks: Picks) -> list[Value]:
    """A dimension becomes two."""
    value = draft.value(picks, lambda item: 0 < item.rank < 5)
    if value is None:
        return []
    dim = axis(value, picks)
    size = value.shape[dim - 1]
    inner = [number for number in range(2, size) if size % number == 0]
    if not inner:
        return []
    number = inner[picks.below(len(inner))]
    sizes = (*value.shape[: dim - 1], size // number, number, *value.shape[dim:])
    return draft.add(f"{value}.reshape(-1, {', '.join(map(str, sizes))})")


@step
def shuffle(draft: Draft, picks: Picks) -> list[Value]:
    """Split, swap, merge: a channel shuffle of the last dimension."""
    value = draft.value(picks, lambda item: 0 < item.rank < 5 and item.shape[-1] % 2 == 0)
    if value is None:
        return []
    half = value.shape[-1] // 2
    sizes = (half, 2) if picks.below(2) else (2, half)
    return draft.add(f"{value}.unflatten(-1, {sizes}).transpose(-1, -2).flatten(-2)")


@step
def repeat(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim = axis(value, picks)
    times = ", ".join("2" if place == dim else "1" for place in range(value.rank + 1))
    spread = ", ".join("2" if place == dim else "-1" for place in range(value.rank + 2))
    ways = (
        f"{value}.repeat_interleave(2, {dim})",
        f"{value}.repeat({times})",
        f"{value}.unsqueeze({dim}).expand({spread}).flatten({dim}, {dim + 1})",
        f"{value}.unsqueeze({dim}).expand({spread})",
    )
    return draft.add(str(picks.one(ways)))


@step
def moved(draft: Draft, picks: Picks) -> list[Value]:
    """Positions in another order, or some of them."""
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim = axis(value, picks)
    size = value.shape[dim - 1]
    order = [(3 * place + 1) % size for place in range(size)]
    before, behind = picks.below(3), 1 + picks.below(2)
    sides = [0, 0] * (value.rank - dim) + [before, behind]
    ways = (
        f"{value}.flip({dim})",
        f"{value}.roll(1, {dim})",
        f"{value}.index_select({dim}, torch.tensor({order[: 1 + picks.below(size)]}))",
        f"{value}[{':, ' * dim}torch.tensor({order})]",
        f"functional.pad({value}, {sides})",
        f"{value}.cumsum({dim})",
        f"{value}.unfold({dim}, {min(2, size)}, {1 + picks.below(2)})",
    )
    return draft.add(str(picks.one(ways)))


@step
def reduce(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, deep)
    if value is None:
        return []
    dim = axis(value, picks)
    keep = bool(picks.below(2))
    ways = [f"{value}.{name}({dim}, keepdim={keep})" for name in ("sum", "mean", "amax")]
    ways += [f"{value}.softmax({dim})", f"{value} / ({value}.square().sum({dim}, keepdim=True) + 0.1)"]
    return draft.add(str(picks.one(ways)))


@step
def normalise(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, deep)
    if value is None:
        return []
    first, last = value.shape[0], value.shape[-1]
    groups = [number for number in range(1, first + 1) if first % number == 0]
    ways = [f"nn.LayerNorm({last})", f"nn.RMSNorm({last})", f"nn.GroupNorm({picks.one(groups)}, {first})"]
    if 1 <= value.rank <= 3:
        ways.append(f"nn.BatchNorm{max(1, value.rank - 1)}d({first}).eval()")
    return draft.add(f"{draft.member(str(picks.one(ways)))}({value})")


@step
def convolve(draft: Draft, picks: Picks) -> list[Value]:
    value = draft.value(picks, image)
    if value is None:
        return []
    channels = value.shape[0]
    groups = [1, *(number for number in range(2, channels + 1) if channels % number == 0)]
    group = groups[picks.below(len(groups))]
    out = group * (1 + picks.below(3)) if group > 1 else WIDTHS[picks.below(len(WIDTHS))]
    kernel, turned = picks.one((1, 3)), picks.below(4) == 3
    kind = f"Conv{'Transpose' if turned else ''}{value.rank - 1}d"
    layer = draft.member(f"nn.{kind}({channels}, {out}, {kernel}, padding={kernel // 2}, groups={group})")
    return draft.add(f"{layer}({value})")


@step
def contract(draft: Draft, picks: Picks) -> list[Value]:
    """Two values multiplied over their last dimension, or one dimension of an einsum."""
    value = draft.value(picks, lambda item: item.rank > 1)
    if value is None:
        return []
    other = draft.value(picks, lambda item: item.rank == value.rank and item.shape[-1] == value.shape[-1])
    if other is None:
        return []
    letters = "cdef"[: value.rank - 2]
    ways = (
        f"{value} @ {other}.transpose(-1, -2)",
        f'torch.einsum("b{letters}ik,b{letters}jk->b{letters}ij", {value}, {other})',
        f'torch.einsum("b{letters}ik,b{letters}jk->b{letters}jik", {value}, {other})',
    )
    return draft.add(str(picks.one(ways)))


@step
def attention(draft: Draft, picks: Picks) -> list[Value]:
    """Heads of one projection that attend to each other, causally or not."""
    value = draft.value(picks, lambda item: item.rank == 2)
    if value is None:
        return []
    rows, width = value.shape
    heads, inner = 1 + picks.below(3), 2 + picks.below(3)
    fused = draft.linear(width, 3 * heads * inner)
    out = draft.linear(heads * inner, width)
    name = f"w{draft.operations}"
    causal = bool(picks.below(2))
    return draft.add(
        f"{out}(functional.scaled_dot_product_attention(*{name}, is_causal={causal}).transpose(1, 2).flatten(2))",
        [f"{name} = {fused}({value}).reshape(-1, {rows}, 3, {heads}, {inner}).permute(2, 0, 3, 1, 4).unbind(0)"],
    )
