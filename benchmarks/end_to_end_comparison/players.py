"""What takes part: the denoiser as it is and compiled, and sessions of its cached programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import graphopt
from end_to_end_comparison.generation import Plan
from end_to_end_comparison.subjects import Cache

EAGER, COMPILED = "eager", "torch.compile"
FUSE = "fuse-cached-blocks"


@dataclass(frozen=True)
class Player:
    """One system that denoises.

    Attributes:
        name: what the table calls it.
        call: called like the model.
        like: name of the player that computes the same in eager mode, which the result is compared with.
        start: begins a generation.
        decisions: which program each step of the last generation ran; empty for the model itself.
        notes: what the fusing pass did.
        claimed: speed-up that the method's authors claim.
    """

    name: str
    call: Callable[..., Any]
    like: str
    start: Callable[[], None] = lambda: None
    decisions: Callable[[], list[str]] = list
    notes: tuple[str, ...] = ()
    claimed: str = ""


def players(model: nn.Module, plan: Plan, caches: tuple[Cache, ...], mode: str) -> Iterator[Player]:
    """Everyone who takes part; what a pass refuses is said in a line and left out.

    Args:
        model: the denoiser.
        plan: of the generation.
        caches: the caches.
        mode: of torch.compile.
    """
    yield Player(EAGER, model, EAGER)
    yield Player(COMPILED, torch.compile(model, mode=mode, fullgraph=True), EAGER)
    program = graphopt.capture(model, plan.inputs)
    for cache in caches:
        yield from _cached(program, plan, cache, mode)


def _cached(program: graphopt.Program, plan: Plan, cache: Cache, mode: str) -> Iterator[Player]:
    name = f"{cache.label}: eager"
    yield _session(name, name, program, plan, cache.passes, None, cache)
    for text, passes in (("compiled", cache.passes), ("fused, compiled", f"{cache.passes},{FUSE}")):
        try:
            made = _session(f"{cache.label}: {text}", name, program, plan, passes, mode, cache)
        except graphopt.GraphoptError as error:
            print(f"  {cache.label}: {text}: left out, {error}", flush=True)
            continue
        yield made


def _session(
    name: str, like: str, program: graphopt.Program, plan: Plan, passes: str, mode: str | None, cache: Cache
) -> Player:
    # The laws of the pass manager run the programs once more and compare them on the processor's terms; here the last
    # latents are compared instead.
    context = graphopt.PassContext(verify=not plan.latents.is_cuda)
    result = graphopt.Pipeline(passes).run(program, context)
    session = graphopt.CacheSession(result)
    if mode is not None:
        session.compile(mode=mode)
    report = result.report.passes[-1]
    notes = (*report.notes, *report.refused) if passes.endswith(FUSE) else ()
    return Player(
        name,
        session,
        like,
        start=lambda: session.reset(timesteps=plan.numbers),
        decisions=lambda: [decision.program for decision in session.decisions],
        notes=notes,
        claimed=cache.claimed,
    )
