"""Run programs with and without kernels, which Triton's interpreter runs: a script, started in a process of its own.

Arguments: the passes before fusing. Prints the error and the number of launches, by program, as JSON.
TRITON_INTERPRET=1 is set before.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from caching.normed import normed_program
from torch import Tensor
from torch.utils import _pytree as pytree

import graphopt
from graphopt.kernels.launch import FORCE


def main(passes: str) -> dict[str, tuple[float, int]]:
    from triton.runtime.interpreter import GridExecutor

    launches = 0
    launch = GridExecutor.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal launches
        launches += 1
        return launch(self, *args, **kwargs)

    GridExecutor.__call__ = counted
    fused = graphopt.Pipeline(f"{passes},fuse-cached-blocks").run(normed_program())
    errors: dict[str, tuple[float, int]] = {}
    for name, program in fused.programs.items():
        if not any(str(node.target).startswith("graphopt.") for node in program.nodes()):
            continue
        kwargs = {key: torch.randn_like(tensor) if tensor.ndim else tensor for key, tensor in program.kwargs.items()}
        references = pytree.tree_leaves(program(*program.args, **kwargs))
        before = launches
        os.environ[FORCE] = "1"
        found = pytree.tree_leaves(program(*program.args, **kwargs))
        os.environ[FORCE] = "0"
        assert all(isinstance(leaf, Tensor) for leaf in found)
        pairs = zip(found, references, strict=True)
        error = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
        errors[name] = (error, launches - before)
    return errors


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(sys.argv[1]))}\n")
