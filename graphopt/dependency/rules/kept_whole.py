"""Modules that are kept whole: nothing of what they read, hold or give can go."""

from __future__ import annotations

from graphopt.dependency.registry import coupling_rule
from graphopt.dependency.rules.fixed import whole
from graphopt.dependency.ties import Output, Ties
from graphopt.parts import part_of


@coupling_rule("graphopt.opaque.default", freezes=True)
def kept_whole(t: Ties) -> Output:
    """Freeze everything, with what made capture keep the module whole for a reason."""
    name = str(t["name"])
    return whole(f"{name} is kept whole, as {part_of(int(t['serial']), name).shell.why}")(t)
