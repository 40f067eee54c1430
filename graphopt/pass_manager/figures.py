"""Figures of a program that a report shows before and after."""

from __future__ import annotations

from graphopt.cost import cost
from graphopt.program import Program


def figures(program: Program) -> dict[str, float]:
    """Parameters, bytes and multiply-accumulates of a program on its example inputs."""
    total = cost(program)
    return {
        "parameters": float(total.parameters),
        "parameters_without_vocabulary": float(total.parameters_without_vocabulary),
        "parameter_bytes": float(total.parameter_bytes),
        "macs": float(total.macs),
        "activation_peak_bytes": float(total.activation_peak_bytes),
    }
