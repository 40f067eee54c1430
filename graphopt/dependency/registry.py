"""The table from operator to coupling rule."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from graphopt.capture_failure import Attempt
from graphopt.errors import RegistrationError
from graphopt.known import load_before_use, make_known, names_of

if TYPE_CHECKING:
    from graphopt.dependency.ties import Output, Ties

Zeros: TypeAlias = Literal["none", "keeps", "joined", "any", "all", "affine", "product", "value"]
"""How zeros travel through an operator.

* ``none``: zero in does not mean zero out.
* ``keeps``: the output is zero where the first operand is.
* ``joined``: the output is zero where every operand that holds the axis is.
* ``any``: an elementwise product; the output is zero where one operand is.
* ``all``: a sum; the output is zero where every operand is, and no number is added.
* ``product``: a contraction; an output axis is zero where every operand that holds it is.
* ``value``: the output is zero where the operand of this name is, as a weighted mean of its rows.
* ``affine``: the output is zero where both weight and bias are, as a normalisation's or a linear map's output axis.
"""

FAMILIES = (
    "attention",
    "complex",
    "contraction",
    "convolution",
    "creation",
    "distances",
    "einsum",
    "elementwise",
    "fixed",
    "folding",
    "indexing",
    "joining",
    "kept_whole",
    "movement",
    "normalisation",
    "ordering",
    "pooling",
    "products",
    "recurrent",
    "reduction",
    "resampling",
    "reshaping",
    "scattering",
    "slicing",
)
ENTRY_POINT_GROUP = "graphopt.coupling_rules"


@dataclass(frozen=True)
class Sample:
    """A small program around one operator, on which its rule is proved.

    Attributes:
        call: the operator, called with one tensor an operand, each of shape ``(batch, *operand)``, and with the raw
            parameters by name.
        operands: shapes of the operands without the batch dimension; every one of their dimensions is produced by
            a weight of its own and read by another, so that every axis is free unless the operator freezes it.
        parameters: shapes of raw parameters that the operator reads.
    """

    call: Callable[..., Tensor | tuple[Tensor, ...] | list[Tensor]]
    operands: tuple[tuple[int, ...], ...] = ((6,),)
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """A coupling rule: states the ties of one operator and how zeros travel through it.

    Attributes:
        target: the operator's name.
        state: states the ties and gives the dimensions of the output.
        sample: a program on which the rule is proved.
        zeros: how zeros travel through the operator.
        freezes: whether nothing that the operator touches may go, which leaves a sample nothing to prove.
    """

    target: str
    state: Callable[[Ties], Output]
    sample: Sample | None
    zeros: Zeros | Callable[[Ties], Zeros]
    freezes: bool


_TABLE: dict[str, Rule] = {}
_LOADED: set[str] = set()


def coupling_rule(
    *targets: str,
    sample: Sample | None = None,
    zeros: Zeros | Callable[[Ties], Zeros] = "none",
    freezes: bool = False,
) -> Callable[[Callable[[Ties], Output]], Callable[[Ties], Output]]:
    """Register the coupling rule of one or several operators.

    Args:
        targets: names as ``str(node.target)`` prints them: ``"aten.linear.default"``. A rule of ``aten.add.Tensor``
            serves the in-place ``aten.add_.Tensor`` too.
        sample: a small program on which the rule is proved by the tests.
        zeros: how zeros travel through the operator, or a function of the operator that says so.
        freezes: says that the rule freezes every dimension of every operand and of the output, instead of a sample.

    Raises:
        RegistrationError: if a target has a rule already, or a rule that freezes everything has a sample.
    """
    if freezes and sample is not None:
        raise RegistrationError(
            f"the rule of {', '.join(targets)} freezes everything, so its sample proves nothing; leave one of them out"
        )

    def register(state: Callable[[Ties], Output]) -> Callable[[Ties], Output]:
        for target in targets:
            if target in _TABLE:
                raise RegistrationError(
                    f"a coupling rule for {target} exists already in {_TABLE[target].state.__module__}; "
                    "change that one, or register another operator"
                )
            _TABLE[target] = Rule(target, state, sample, zeros, freezes)
            make_known(target)
        return state

    return register


def rule_table() -> Mapping[str, Rule]:
    """Every registered rule by operator name, built-in families and installed entry points loaded.

    Raises:
        RegistrationError: if the module that an installed package names under ``graphopt.coupling_rules`` cannot be
            imported, or registers an operator that has a rule already.
    """
    if "built-in" not in _LOADED:
        for family in FAMILIES:
            importlib.import_module(f"graphopt.dependency.rules.{family}")
        _LOADED.add("built-in")
    if "installed" not in _LOADED:
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            if entry.value not in _LOADED:
                _load(entry)
                _LOADED.add(entry.value)
        _LOADED.add("installed")
    return _TABLE


def _load(entry: EntryPoint) -> None:
    """Import what another package offers, so that it registers its rules."""
    with Attempt() as attempt:
        entry.load()
    if attempt.failure is None:
        return
    package = "an installed package" if entry.dist is None else f"the package {entry.dist.name}"
    raise RegistrationError(
        f"{package} offers the coupling rules {entry.name!r} at {entry.value}, which cannot be loaded: "
        f"{type(attempt.failure).__name__}: {attempt.failure}; mend, update or uninstall it"
    ) from attempt.failure


def find_rule(target: Any) -> Rule | None:
    """The rule of a call target, in-place variants included; None for an unknown operator."""
    table = rule_table()
    return next((table[name] for name in names_of(target) if name in table), None)


load_before_use(rule_table)
