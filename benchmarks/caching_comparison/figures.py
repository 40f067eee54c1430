"""What a contest says about each system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

import graphopt
from caching_comparison.contest import Record
from graphopt.cost import cost
from graphopt.regions.timing import operator_seconds

HIT_PROGRAMS = ({"probe", "tail-cached"}, {"cached"})
"""What a cached step runs: of a cache that decides by a probe, and of any other."""
BASELINE, ORIGINAL, EAGER = "baseline", "original", "eager"


@dataclass(frozen=True)
class Row:
    """One system in one case.

    Attributes:
        passes: text of the case.
        system: which system.
        full_seconds: CPU seconds of a full step.
        cached_seconds: of a cached step; None where there was none.
        generation_seconds: of all steps.
        full_steps: how many were full.
        speed_up: the baseline's generation over this one.
        own_speed_up: a generation of full steps alone, in the same runtime, over this one.
        of_ideal: the speed-up over what it were if a cached step took its operators' share of the baseline's step. The
            own speed-up is taken where the runtime is not the baseline's.
        over_original: the original's generation over this one.
        held_bytes: most bytes held after a step.
        steps_equal: steps at which the output is that of the eager session, bit for bit.
        error: largest difference of the last latents from the eager session's, over their largest magnitude.
    """

    passes: str
    system: str
    full_seconds: float
    cached_seconds: float | None
    generation_seconds: float
    full_steps: int
    speed_up: float
    own_speed_up: float
    of_ideal: float
    over_original: float
    held_bytes: int
    steps_equal: int
    error: float


@dataclass(frozen=True)
class Size:
    """One program."""

    passes: str
    program: str
    nodes: int
    parameters: int
    macs: int


def rows(passes: str, records: Mapping[str, Record], share: float) -> list[Row]:
    """What the systems of one case did.

    Args:
        passes: text of the case.
        records: by system; the baseline, the original and the eager session are among them.
        share: of the baseline's step that the operators of a cached step take.
    """
    return [_row(passes, system, records, share) for system in records]


def _row(passes: str, system: str, records: Mapping[str, Record], share: float) -> Row:
    record, reference = records[system], records[EAGER]
    steps, full = len(record.full), sum(record.full)
    seconds = record.generation_seconds
    full_seconds = record.step_seconds(full=True) or record.rounds[0][0]
    ideal = steps / (full + (steps - full) * share)
    speed_up, own = records[BASELINE].generation_seconds / seconds, steps * full_seconds / seconds
    return Row(
        passes=passes,
        system=system,
        full_seconds=full_seconds,
        cached_seconds=record.step_seconds(full=False),
        generation_seconds=seconds,
        full_steps=full,
        speed_up=speed_up,
        own_speed_up=own,
        of_ideal=(own if system.startswith(("compiled", "ONNX")) else speed_up) / ideal,
        over_original=records[ORIGINAL].generation_seconds / seconds,
        held_bytes=record.held_bytes,
        steps_equal=sum(map(torch.equal, record.outputs, reference.outputs)),
        error=float((record.latents - reference.latents).abs().max() / reference.latents.abs().max()),
    )


def kept_share(program: graphopt.Program, seconds: Mapping[str, float], result: graphopt.Result) -> float:
    """Share of a step's operator seconds that are those of operators which a cached step has too.

    Args:
        program: the program before any cache.
        seconds: by name of its nodes.
        result: with the programs of the cache.
    """
    hit = next(names for names in HIT_PROGRAMS if names <= set(result.programs))
    kept = {node.name for name in hit for node in result.programs[name].nodes()}
    return sum(taken for name, taken in seconds.items() if name in kept) / sum(seconds.values())


def seconds_by_name(program: graphopt.Program) -> dict[str, float]:
    """Measured seconds of every operator."""
    return {node.name: taken for node, taken in operator_seconds(program).items()}


def sizes(passes: str, result: graphopt.Result) -> list[Size]:
    """Every program of a result."""
    return [
        Size(passes, name, sum(1 for _ in program.nodes()), (figures := cost(program)).parameters, figures.macs)
        for name, program in result.programs.items()
    ]
