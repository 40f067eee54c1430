"""Steps that apply an operator through the sample of its coupling rule."""

from collections.abc import Mapping, Sequence

import torch
from laws.draft import Draft, Picks, Value
from torch import nn

from graphopt.dependency.registry import Sample, rule_table

NAMES = tuple(sorted(name for name, rule in rule_table().items() if rule.sample is not None))


def apply_rule(draft: Draft, target: str, picks: Picks) -> list[Value]:
    """Call the sample of a rule on values as they are, and on values of the sample's own shapes where that fails."""
    sample = rule_table()[target].sample
    assert sample is not None
    made: list[Value] = []
    if picks.below(4):
        made = _called(draft, target, sample, _as_they_are(draft, sample, picks))
    if not made:
        made = _called(draft, target, sample, _as_the_sample(draft, sample, picks))
    if made:
        draft.drawn.append(target)
    return made


def _as_they_are(draft: Draft, sample: Sample, picks: Picks) -> list[Value]:
    """The first operand is any value of the rank of the sample's; the others fit it as they do there."""
    ranks = [len(shape) for shape in sample.operands]
    first = draft.value(picks, lambda value: value.rank == ranks[0] or ranks == [1] * len(ranks))
    if first is None:
        return []
    sizes = dict(zip(sample.operands[0], first.shape, strict=False))
    operands = [first]
    for shape in sample.operands[1:]:
        wanted = first.shape if shape == sample.operands[0] else tuple(sizes.get(size, size) for size in shape)
        other = draft.value(picks, lambda value, wanted=wanted: value.shape == wanted)
        other = other or _made_of(draft, wanted, picks)
        if other is None:
            return []
        operands.append(other)
    return operands


def _as_the_sample(draft: Draft, sample: Sample, picks: Picks) -> list[Value]:
    operands = [_made_of(draft, shape, picks) for shape in sample.operands]
    return [] if None in operands else [operand for operand in operands if operand is not None]


def _made_of(draft: Draft, shape: tuple[int, ...], picks: Picks) -> Value | None:
    value = draft.value(picks)
    return None if value is None else draft.fitted(value, shape)


def _called(draft: Draft, target: str, sample: Sample, operands: Sequence[Value]) -> list[Value]:
    if not operands:
        return []
    raw = _raw(draft, sample, operands)
    words = [*map(str, operands), *(f"{name}={code}" for name, code in raw.items())]
    return draft.add(f"{said(target, sample)}({', '.join(words)})")


def _raw(draft: Draft, sample: Sample, operands: Sequence[Value]) -> Mapping[str, str]:
    """Raw parameters, whose sizes follow those of the operands."""
    sizes = {
        size: found
        for shape, value in zip(sample.operands, operands, strict=True)
        for size, found in zip(shape, value.shape, strict=False)
    }
    return {
        name: draft.parameter([sizes.get(size, size) for size in shape]) for name, shape in sample.parameters.items()
    }


def said(target: str, sample: Sample) -> str:
    """The sample's call as code: by its public name where it has one."""
    call = sample.call
    if isinstance(call, torch._ops.OpOverload):
        return f"torch.ops.{call}"
    name = getattr(call, "__name__", "")
    for home, text in ((torch, "torch"), (nn.functional, "functional")):
        if getattr(home, name, None) is call:
            return f"{text}.{name}"
    return f'RULES["{target}"].sample.call'
