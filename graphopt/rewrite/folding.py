"""Folding: what constant inputs give is written into the bias of the operator that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphopt.arguments import arguments_of
from graphopt.assembly import Attribute
from graphopt.copying import GraphCopy, copy_graph
from graphopt.dependency.placement import BoolArray
from graphopt.errors import PlanError
from graphopt.program import Fold, Lineage, Program
from graphopt.rewrite.constants import set_argument
from graphopt.running import values_apart
from graphopt.tracing import recapture

aten = torch.ops.aten
CONVOLUTIONS: dict[Any, tuple[int, Callable[..., Tensor]]] = {
    aten.conv1d.default: (1, nn.functional.conv1d),
    aten.conv2d.default: (2, nn.functional.conv2d),
    aten.conv3d.default: (3, nn.functional.conv3d),
    aten.conv1d.padding: (1, nn.functional.conv1d),
    aten.conv2d.padding: (2, nn.functional.conv2d),
    aten.conv3d.padding: (3, nn.functional.conv3d),
}
"""Number of spatial dimensions of a convolution, and the function that computes it."""

STEADY = 1e-5
"""How far a constant may move from one position to another, relative to itself: the rounding of sums in another
order."""


@dataclass(frozen=True)
class Reader:
    """An operator whose bias can take what constants give.

    Attributes:
        node: the operator.
        input: what it reads.
        axis: the dimension of the input that it sums over, from the back.
        bias: name of its bias, which may be new.
    """

    node: fx.Node
    input: fx.Node
    axis: int
    bias: str

    def given(self, constants: Tensor, weight: Tensor) -> Tensor:
        """What constants give, shape ``(out_channels,)``.

        Args:
            constants: shape ``(in_channels,)``, zero where the input is not constant.
            weight: the operator's weight.
        """
        values, weight = constants.to(torch.float64), weight.detach().to(torch.float64)
        if self.node.target is aten.linear.default:
            return weight @ values
        if self.node.target is aten.addmm.default:
            return values @ weight
        rank, convolve = CONVOLUTIONS[self.node.target]
        arguments = arguments_of(self.node)
        dilation = _each(arguments["dilation"], rank)
        window = [step * (size - 1) + 1 for step, size in zip(dilation, weight.shape[2:], strict=True)]
        inside = values.reshape(1, -1, *(1,) * rank).expand(1, -1, *window)
        return convolve(inside, weight, dilation=dilation, groups=arguments["groups"]).reshape(-1)


def reader_of(node: fx.Node, program: Program) -> Reader | None:
    """How an operator takes constants; None where it cannot.

    A convolution that pads with zeros sees something else than the constant at the border, so that no bias stands
    for it.

    Args:
        node: an operator of the program that sums over an axis.
        program: a captured program, bypassed or not.
    """
    arguments = arguments_of(node) if isinstance(node.target, torch._ops.OpOverload) else {}
    if node.target in CONVOLUTIONS:
        rank = CONVOLUTIONS[node.target][0]
        names = ("input", -1 - rank, "weight", "bias") if _is_bare(arguments, rank) else None
    elif node.target is aten.linear.default:
        names = ("input", -1, "weight", "bias")
    elif node.target is aten.addmm.default and arguments["alpha"] == 1 and arguments["beta"] == 1:
        names = ("mat1", -1, "mat2", "self")
    else:
        names = None
    if names is None or node.graph is not program.graph_module.graph:
        return None
    bias = _bias(arguments[names[2]], arguments[names[3]], program)
    return None if bias is None else Reader(node, arguments[names[0]], names[1], bias)


def _is_bare(arguments: Mapping[str, Any], rank: int) -> bool:
    """Whether a convolution sees nothing beyond its input."""
    padding = arguments["padding"]
    if isinstance(padding, str):
        return padding == "valid" or all(size == 1 for size in arguments["weight"].meta["val"].shape[2:])
    return not any(_each(padding, rank))


def _bias(weight: fx.Node, bias: fx.Node | None, program: Program) -> str | None:
    """The name of a bias that nobody else reads, or of a new one."""
    if bias is None:
        stem, _, leaf = str(weight.target).rpartition(".")
        name = f"{stem}.bias" if stem else "bias"
        free = weight.op == "get_attr" and leaf == "weight" and name not in program.parameters
        return name if free and len(weight.users) == 1 else None
    if bias.op != "get_attr" or len(bias.users) != 1 or bias.meta["val"].ndim != 1:
        return None
    tensor = program.parameters.get(str(bias.target))
    names = [name for name, other in program.parameters.items() if other is tensor]
    return names[0] if len(names) == 1 else None


def fold(program: Program, folds: Sequence[Fold]) -> Program:
    """The program with constants added to biases; nothing is taken away yet.

    Args:
        program: the captured program, or what is left of it without bypassed branches and blocks.
        folds: what is added where.

    Returns:
        A new program whose lineage names the captured one and what was folded.

    Raises:
        PlanError: the program has no such operator, or its bias is of another size.
    """
    duplicate = copy_graph(program.graph_module)
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    for one in folds:
        reader = reader_of(nodes[one.node], program) if one.node in nodes else None
        if reader is None or reader.bias != one.bias:
            raise PlanError(
                f"constants are folded into {one.bias} of {one.node}, which this program does not have; the plan was "
                "made for another model or by another release of graphopt: make it again"
            )
        _add(duplicate, reader, one)
    before = program.lineage
    lineage = Lineage(program, {}) if before is None else before
    module = duplicate.assemble()
    return recapture(module, program.args, program.kwargs, program, lineage=replace(lineage, folded=tuple(folds)))


def _add(duplicate: GraphCopy, reader: Reader, one: Fold) -> None:
    copy = duplicate.nodes[reader.node]
    known = duplicate.attributes.get(reader.bias)
    if known is None:
        output: Any = reader.node.meta["val"]
        tensor = torch.tensor(one.values, dtype=output.dtype, device=output.device)
        added = duplicate.insert_attribute(copy, reader.bias, Attribute(nn.Parameter(tensor)))
        set_argument(copy, "bias", None, added)
        return
    old = known.value
    if not isinstance(old, Tensor) or old.shape != (len(one.values),):
        raise PlanError(
            f"{reader.bias} is not of {len(one.values)} numbers, so that the plan's constants do not fit it; replay "
            "the plan on the model that it was made for"
        )
    tensor = one.added_to(old)
    is_parameter = isinstance(old, nn.Parameter)
    value = nn.Parameter(tensor, requires_grad=old.requires_grad) if is_parameter else tensor
    duplicate.attributes[reader.bias] = Attribute(value, known.persistent)


def constants_at(program: Program, readers: Sequence[Reader]) -> Mapping[fx.Node, tuple[Tensor, BoolArray]]:
    """What the readers' inputs hold on the example, and which channels hold the same everywhere.

    Args:
        program: the program that the readers are operators of.
        readers: operators.

    Returns:
        For each input the value at its first position, shape ``(channels,)``, and whether the others have it too.
    """
    wanted = {reader.input: reader.axis for reader in readers}
    found = {}
    for node, value in values_apart(program, wanted).items():
        rows = value.movedim(wanted[node], -1).flatten(0, -2)
        first = rows[0]
        spread = (rows - first).abs().amax(0)
        found[node] = (first, (spread <= STEADY * first.abs()).cpu().numpy())
    return found


def _each(value: Any, rank: int) -> list[int]:
    numbers = value if isinstance(value, list | tuple) else [value]
    return [int(item) for item in (numbers if len(numbers) == rank else list(numbers) * rank)]
