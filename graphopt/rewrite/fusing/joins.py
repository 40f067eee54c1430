"""A fresh value and a stored one side by side: normalised, and convolved, without their concatenation."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphopt.arguments import arguments_of, packet_of
from graphopt.errors import PlanError
from graphopt.rewrite.fusing.site import Site
from graphopt.rewrite.pushing import Part, find_part
from graphopt.rewrite.separation import SUMS, Join, join_of
from graphopt.values import refresh_some

aten = torch.ops.aten
KERNEL = "split_group_norm"


def fuse_joins(site: Site) -> None:
    """Normalise the concatenations of a stored and a fresh value in one pass, so that they are never made.

    Convolutions over the channels of such a concatenation are split into one for each operand.
    """
    for concat in site.nodes(aten.cat):
        try:
            join = join_of(concat)
            if not any(operand in site.stored for operand in join.operands):
                continue
            _require_group_norm(concat)
            parts = [find_part(user, _stored_operand(site, join)) for user in concat.users if packet_of(user) in SUMS]
            norms = [_Norm(site, join, user) for user in concat.users if packet_of(user) is aten.group_norm]
        except PlanError as error:
            site.refuse(concat, str(error))
            continue
        for norm in norms:
            norm.fuse()
        for part in parts:
            _split(site, part)


def _require_group_norm(concat: fx.Node) -> None:
    """Refuse a concatenation that something reads besides a group norm and convolutions over its channels.

    Raises:
        PlanError: something does, or there is no group norm.
    """
    for user in concat.users:
        if packet_of(user) is not aten.group_norm and packet_of(user) not in SUMS:
            operator = packet_of(user) or user.op
            raise PlanError(f"the concatenation {concat.name} is also read by {user.name} ({operator})")
    if not any(packet_of(user) is aten.group_norm for user in concat.users):
        raise PlanError(f"the concatenation {concat.name} is read by {', '.join(_names(concat))}, not by a group norm")


def _names(node: fx.Node) -> list[str]:
    return [user.name for user in node.users]


def _stored_operand(site: Site, join: Join) -> fx.Node:
    return next(operand for operand in join.operands if operand in site.stored)


class _Norm:
    """A group norm of a concatenation, with the SiLU behind it.

    Raises:
        PlanError: the kernel does not take it.
    """

    def __init__(self, site: Site, join: Join, norm: fx.Node) -> None:
        self._site = site
        given = arguments_of(norm)
        readers = list(norm.users)
        silu = len(readers) == 1 and packet_of(readers[0]) is aten.silu
        self._last = readers[0] if silu else norm
        self._arguments: tuple[Any, ...] = (
            *join.operands,
            int(given["num_groups"]),
            given["weight"],
            given["bias"],
            float(given["eps"]),
            silu,
            None,
            None,
        )
        if not site.takes(KERNEL, self._arguments, norm, noted=join.concat):
            raise PlanError(site.refusals[join.concat].text)

    def fuse(self) -> None:
        """Put the kernel in its place."""
        self._site.replace(self._last, self._site.insert(KERNEL, self._arguments, self._last))


def _split(site: Site, part: Part) -> None:
    """A convolution of a concatenation as the sum of two, the bias in the one of the fresh operand."""
    whole = part.chain[-1]
    fresh = part.insert(whole, lambda node: node, own=False)
    stored = part.insert(whole, lambda node: node, own=True)
    with site.graph.inserting_before(whole):
        total = site.graph.call_function(aten.add.Tensor, (fresh, stored))
    refresh_some([total])
    site.replace(whole, total)
