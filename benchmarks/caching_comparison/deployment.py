"""torch.compile and torch.export on programs of graphopt and on models that hold their cache in hooks; tiny models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO

from peers.compiling import (
    Attempt,
    Call,
    attempt_compile,
    attempt_export,
    deepcache_at,
    first_block_at,
    taylorseer_at,
)
from peers.sampling import scheduler_of
from peers.subjects import PIXART, UNET, Subject, normal

import graphopt

ORIGINALS: dict[str, Callable[[int], Call]] = {
    "DeepCache's helper": deepcache_at,
    "first-block hook": first_block_at,
    "TaylorSeer hook": taylorseer_at,
}
CACHED_STEP = 2
OURS = (
    (UNET, "deepcache{interval=3}"),
    (PIXART, "first-block{threshold=0.4}"),
    (PIXART, "taylorseer{interval=3,warm_up=2,order=1}"),
    (UNET, "deepcache{interval=3},hoist-invariants"),
    (PIXART, "first-block{threshold=0.4},hoist-invariants"),
)


@dataclass(frozen=True)
class Deployment:
    """What came of one system, in words."""

    system: str
    compile: str
    export: str


def deployments() -> Iterator[Deployment]:
    """Try the originals at a cached step, and all programs of ours."""
    for name, at in ORIGINALS.items():
        with redirect_stderr(StringIO()):  # exports that fail print their graphs
            tried = [attempt(lambda at=at: at(CACHED_STEP)) for attempt in (attempt_compile, attempt_export)]
        yield Deployment(name, *map(str, tried))
    for subject, passes in OURS:
        result = graphopt.Pipeline(passes).run(_program(subject))
        calls = [Call(program.graph_module, program.args, program.kwargs) for program in result.programs.values()]
        yield Deployment(
            f"`{passes}`",
            _words([attempt_compile(lambda call=call: call) for call in calls]),
            _words([attempt_export(lambda call=call: call) for call in calls]),
        )


def _program(subject: Subject) -> graphopt.Program:
    timestep = scheduler_of(subject).timesteps[0]
    args, kwargs = subject.arguments(normal(2, *subject.latents), timestep, subject.conditions(2))
    return graphopt.capture(subject.make(), args, kwargs)


def _words(attempts: list[Attempt]) -> str:
    counts = Counter(map(str, attempts))
    return "; ".join(f"{count} of {len(attempts)} programs {words}" for words, count in counts.items())
