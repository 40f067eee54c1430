"""Partitions: what the devices compute together is what the program computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.errors import VerificationError
from graphopt.program import Program
from graphopt.proof.check import Check, equal, inputs_of, outputs_of
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import Cutting
from graphopt.stages import Partition

ROUNDING = 1e-4
"""Largest relative error of what is computed in parts: operators round differently for other sizes."""


def check_partition(
    programs: Mapping[str, Program], partition: Partition, stages: Mapping[str, Placed], cutting: Cutting
) -> tuple[Check, ...]:
    """Check that a synchronous step equals the program, and that segments equal the placed graph bit for bit.

    Args:
        programs: the partitioned program as ``main``, or the programs of a schedule by id.
        partition: made for these programs.
        stages: the placed graph of each of its phases.
        cutting: its segments.

    Raises:
        VerificationError: one of them does not.
    """
    checks = []
    for phase, placed in stages.items():
        if partition.delays and any(delay.name for delay in placed.delays) and phase != next(iter(stages)):
            continue
        program = placed.program
        inputs = inputs_of(program)
        emulated = _tensors(Emulator({phase: placed}).run(phase, inputs.args, inputs.kwargs))
        original = outputs_of(programs["main"], inputs)
        checks.append(_same_program(partition, original, emulated))
        known = dict(zip(_placeholders(program), inputs.leaves(), strict=True))
        for segment in partition.phases[phase].segments:
            with torch.no_grad():
                found = cutting.modules[phase, segment.id](*(known[name] for name in segment.inputs))
            known.update(zip(segment.outputs, found, strict=True))
        cut = [known[name] for name in partition.phases[phase].outputs]
        if not all(equal(one, other) for one, other in zip(emulated, cut, strict=True)):
            raise VerificationError("the segments of the partition do not give what its placed graph gives")
        checks.append(Check("segments equal the placed graph", 0.0, f"phase {phase}, bit for bit"))
    return tuple(checks)


def _same_program(partition: Partition, original: list[Tensor], emulated: list[Tensor]) -> Check:
    error = max((relative_error(one, other) for one, other in zip(original, emulated, strict=True)), default=0.0)
    exact = partition.mode in ("pipeline", "async") and partition.micro_batches == 1
    if error > (0.0 if exact else ROUNDING):
        raise VerificationError(
            f"a synchronous step of the partition is {error:.2e} away from the program, wanted "
            f"{'no difference' if exact else f'at most {ROUNDING:.0e}'}"
        )
    return Check("partition equals the program", error, f"mode {partition.mode}, {partition.devices} devices")


def relative_error(wanted: Tensor, found: Tensor) -> float:
    """Norm of the difference over the norm of what was wanted; 0 where they are equal bit for bit."""
    if equal(wanted, found):
        return 0.0
    wanted, found = wanted.detach().double(), found.detach().double()
    scale = float(wanted.norm())
    return float((wanted - found).norm()) / (scale or 1.0)


def _placeholders(program: Program) -> list[str]:
    return [node.name for node in program.graph_module.graph.find_nodes(op="placeholder")]


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
