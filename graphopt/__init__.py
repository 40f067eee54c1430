"""graphopt: a compiler that makes PyTorch models smaller and faster on their graph, with proof."""

from graphopt.compiler import optimize
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.exporters.onnx import export_onnx
from graphopt.exporters.weights import load
from graphopt.pass_manager import Pass, PassContext, Pipeline, Result
from graphopt.passes.channels.prune import PruneChannels
from graphopt.plan import Plan
from graphopt.program import Program
from graphopt.proof import verify
from graphopt.scores import Batch
from graphopt.tracing import capture
from graphopt.version import __version__

__all__ = [
    "Batch",
    "DependencyGraph",
    "Pass",
    "PassContext",
    "Pipeline",
    "Plan",
    "Program",
    "PruneChannels",
    "Result",
    "Sample",
    "__version__",
    "capture",
    "coupling_rule",
    "export_onnx",
    "load",
    "optimize",
    "verify",
]
