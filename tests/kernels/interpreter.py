"""Run cases of a kernel through Triton's interpreter: a script, started in a process of its own by conftest.py.

Arguments: `module:function`, a file with a list of argument tuples, and the file to write what came out to.
"""

import importlib
import sys
from typing import Any

import torch


def main(target: str, source: str, destination: str) -> None:
    from triton.runtime.interpreter import GridExecutor

    torch.set_num_threads(1)
    launches = 0
    launch = GridExecutor.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal launches
        launches += 1
        return launch(self, *args, **kwargs)

    GridExecutor.__call__ = counted
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    found = []
    for arguments in torch.load(source, weights_only=True):
        before = launches
        outputs = function(*arguments)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        found.append((outputs, launches - before))
    torch.save(found, destination)


if __name__ == "__main__":
    main(*sys.argv[1:])
