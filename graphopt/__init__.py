"""graphopt: a compiler that makes PyTorch models smaller and faster on their graph, with proof."""

from graphopt.backend import cache_session, invalidate
from graphopt.compiler import optimize
from graphopt.cuts import Cut
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.exporters.applying import apply_plan
from graphopt.exporters.checkpoint import load_checkpoint
from graphopt.exporters.onnx import export_onnx
from graphopt.exporters.weights import load
from graphopt.pass_manager import Pass, PassContext, Pipeline, Result
from graphopt.passes.caching.insert import InsertCache
from graphopt.passes.channels.prune import PruneChannels
from graphopt.passes.layers.prune import PruneLayers
from graphopt.passes.partition.partition import PartitionProgram
from graphopt.plan import Plan
from graphopt.program import Program
from graphopt.proof import verify
from graphopt.regions import find_regions
from graphopt.runtime import (
    CacheSession,
    Emulation,
    context_parallel,
    disable_cache,
    distribute,
    enable_cache,
    serve,
)
from graphopt.schedule import Schedule
from graphopt.scores import Batch
from graphopt.tracing import capture
from graphopt.version import __version__

__all__ = [
    "Batch",
    "CacheSession",
    "Cut",
    "DependencyGraph",
    "Emulation",
    "InsertCache",
    "PartitionProgram",
    "Pass",
    "PassContext",
    "Pipeline",
    "Plan",
    "Program",
    "PruneChannels",
    "PruneLayers",
    "Result",
    "Sample",
    "Schedule",
    "__version__",
    "apply_plan",
    "cache_session",
    "capture",
    "context_parallel",
    "coupling_rule",
    "disable_cache",
    "distribute",
    "enable_cache",
    "export_onnx",
    "find_regions",
    "invalidate",
    "load",
    "load_checkpoint",
    "optimize",
    "serve",
    "verify",
]
