"""Which layers Torch-Pruning has to be told to leave alone, so that outputs keep their shape."""

from typing import Any

from torch import nn

from pruning_comparison.referee import Inputs


def output_layers(model: nn.Module, inputs: Inputs) -> list[nn.Module | nn.Parameter]:
    """Return the last layers with parameters on every path to an output.

    From each output the autograd graph is walked back until a module with parameters of its own made the value, or an
    operator reads a parameter that belongs to no such module. Torch-Pruning then leaves whole every group that holds
    one of them.
    """
    makers: dict[Any, nn.Module] = {}
    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(_recorder(makers)) for layer in layers]
    try:
        args, kwargs = inputs
        outputs = model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[int, nn.Module | nn.Parameter] = {}
    pending = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(pending)
    while pending:
        step = pending.pop()
        ends = _ends(step, makers)
        found.update({id(end): end for end in ends})
        following = [] if ends else [function for function, _ in step.next_functions if function is not None]
        pending.extend(function for function in following if function not in seen)
        seen.update(following)
    return list(found.values())


def _recorder(makers: dict[Any, nn.Module]) -> Any:
    def record(module: nn.Module, _: Any, output: Any) -> None:
        values = output if isinstance(output, tuple | list) else (output,)
        makers.update({value.grad_fn: module for value in values if getattr(value, "grad_fn", None) is not None})

    return record


def _ends(step: Any, makers: dict[Any, nn.Module]) -> list[nn.Module | nn.Parameter]:
    if step in makers:
        return [makers[step]]
    leaves = [getattr(function, "variable", None) for function, _ in step.next_functions]
    return [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]
