"""One tool's whole prune of one model, in a process of its own: prints a line of JSON after each part."""

import argparse
import json
import resource
import sys
import time
import warnings
from typing import Any

import torch
from torch import nn
from zoo.torchvision_operators import torchvision_operators

from prune_speed_comparison.subjects import Built, built


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=("graphopt", "torch-pruning"))
    parser.add_argument("model", help="library/name of the zoo, depth/N, or unet/sd15")
    parser.add_argument("--seconds", type=int, default=60, help="CPU seconds, imports and the model's making aside")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    operators = torchvision_operators()
    run = _with_graphopt if options.tool == "graphopt" else _with_torch_pruning
    run(_tiny(), report=False)
    subject = built(options.model)
    start = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(start) + options.seconds,) * 2)
    try:
        run(subject, report=True)
    except Exception as error:  # any error of a tool is a result here
        text = (str(error).splitlines() or [""])[0]
        _report(failure=f"{type(error).__name__}: {text}")
    _report(spent=time.process_time() - start)
    del operators


def _tiny() -> Built:
    """A model on which first uses (imports, tables) fall, before the clock starts; of the commonest layers."""
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 4))
    return nn.Sequential(*layers, nn.GELU(), nn.Linear(4, 2)).eval(), (torch.randn(2, 3, 4, 4),), {}


def _report(**found: float | str | None) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _with_graphopt(subject: Built, *, report: bool) -> None:
    import graphopt
    from graphopt.dependency.registry import rule_table

    rule_table()
    model, args, kwargs = subject
    start = time.process_time()
    program = graphopt.capture(model, args, kwargs)
    captured = time.process_time()
    pipeline = graphopt.Pipeline("prune-channels{ratio=0.5}")
    result = pipeline.run(program, graphopt.PassContext(verify=False))
    done = time.process_time()
    with torch.no_grad():
        result.program(*program.args, **program.kwargs)
    if report:
        _report(trace=captured - start, total=done - start, nodes=sum(1 for _ in program.nodes()))
        start = time.process_time()
        groups = graphopt.DependencyGraph(program).groups
        _report(groups=time.process_time() - start if groups else 0.0)


def _with_torch_pruning(subject: Built, *, report: bool) -> None:
    import torch_pruning
    from pruning_comparison.output_layers import output_layers
    from pruning_comparison.referee import TensorOutputs

    model, inputs = TensorOutputs(subject[0]).eval(), subject[1:]
    outputs = output_layers(model, inputs)
    score = torch_pruning.importance.GroupMagnitudeImportance()
    start = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model, inputs, score, pruning_ratio=0.5, ignored_layers=outputs, forward_fn=_forward
    )
    built_at = time.process_time()
    pruner.step()
    done = time.process_time()
    with torch.no_grad():
        model(*inputs[0], **inputs[1])
    if report:
        _report(trace=built_at - start, total=done - start)


def _forward(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[torch.Tensor, ...]:
    args, kwargs = inputs
    return tuple(output for output in model(*args, **kwargs) if output.requires_grad)


if __name__ == "__main__":
    main()
