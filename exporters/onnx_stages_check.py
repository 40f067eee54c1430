"""Law 6 for partitions: the files of all devices, run one after another, compute what torch computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.errors import ExportError
from graphopt.exporters.onnx_check import example_batch, require_passed, resized
from graphopt.exporters.onnx_model import OnnxModel, Port
from graphopt.exporters.onnx_stages_file import StageModel
from graphopt.exporters.runtime import OutputError, compare_output, run_session, session
from graphopt.pass_manager.result import Result
from graphopt.program import Program
from graphopt.stages import SYNC, Partition, Phase, stage_key

Errors = dict[str, tuple[OutputError, ...]]


def verify_stages(
    result: Result, partition: Partition, models: Mapping[str, StageModel], folder: Path, tolerance: float
) -> tuple[Errors, tuple[str, ...]]:
    """Compare files with their stages on the example inputs and, where the batch is dynamic, on twice as many rows.

    Every file reads what the files before it gave, and every stage what the stages before it gave. What a step keeps of
    earlier ones is what the phase before gave, with noise: a file that ignored it would differ. The outputs of the last
    synchronous stage are compared with those of the whole program too.

    Args:
        result: What was exported.
        partition: Which segments there are.
        models: The model of each segment by phase and id.
        folder: Where their files are.
        tolerance: Largest error allowed in a floating output, as a fraction of its largest magnitude.

    Returns:
        The errors measured by key of the model, and notes for the user.

    Raises:
        ExportError: An output differs by more than the tolerance, or ONNX Runtime cannot run a file.
    """
    check = _Check(result, partition, models, folder, tolerance)
    errors, notes = check.compare(check.example), list[str]()
    if check.example is not None:
        try:
            more = check.compare(2 * check.example)
            errors = {key: (*found, *more[key]) for key, found in errors.items()}
        except _TorchError as error:
            notes.append(f"compared at a batch of {check.example} alone, since twice as many do not run ({error})")
    return errors, tuple(notes)


class _TorchError(Exception):
    """Torch itself does not run a stage at a batch size."""


class _Check:
    """Runs stages in torch and files in ONNX Runtime side by side.

    Attributes:
        example: Rows of the example batch; None where a batch is static.
    """

    def __init__(
        self,
        result: Result,
        partition: Partition,
        models: Mapping[str, StageModel],
        folder: Path,
        tolerance: float,
    ) -> None:
        self._result, self._partition, self._models, self._tolerance = result, partition, models, tolerance
        distinct = {model.file: session(folder / model.file) for model in models.values()}
        self._sessions: Mapping[str, Any] = distinct
        self._whole = _ports(result.program, next(iter(models.values())).built)
        dynamic = all(any(port.batched for port in model.built.inputs) for model in models.values())
        self.example = example_batch(result.program, self._whole) if dynamic else None

    def compare(self, size: int | None) -> Errors:
        """Return the errors of all files at a batch size."""
        wanted = self._inputs(size)
        found: dict[str, Any] = dict(wanted)
        errors: Errors = {}
        for name, phase in self._partition.phases.items():
            self._recall(wanted, found)
            for segment in phase.segments:
                model = self._models[stage_key(name, segment.id)]
                self._run(model, size, wanted, found)
                compared = [
                    compare_output(wanted[value], found[value], value, size, self._tolerance)
                    for value in segment.outputs
                    if isinstance(wanted[value], Tensor)
                ]
                require_passed(compared, stage_key(name, segment.id))
                errors[model.key] = (*errors.get(model.key, ()), *compared)
            if name == SYNC and self._result.schedule is None:
                self._compare_whole(phase, size, found)
        return errors

    def _inputs(self, size: int | None) -> dict[str, Tensor]:
        """The model's inputs by the names of their placeholders."""
        program = self._result.program
        leaves = pytree.tree_leaves(resized(program, self._whole, size))
        return {port.name: leaves[port.position] for port in self._whole.inputs}

    def _recall(self, wanted: dict[str, Any], found: dict[str, Any]) -> None:
        """Let what is kept of earlier steps be what the phase before gave, disturbed."""
        generator = torch.Generator().manual_seed(0)
        for delay in self._partition.delays:
            if delay.value in wanted:
                wanted[delay.name] = found[delay.name] = _noisy(wanted[delay.value], generator)

    def _run(self, model: StageModel, size: int | None, wanted: dict[str, Any], found: dict[str, Any]) -> None:
        """Run one stage in torch on what torch gave, and its file on what the files gave."""
        names = model.segment.inputs
        absent = [name for name in names if name not in wanted]
        if absent:
            examples = dict(zip(names, resized(model.program, model.built, size)[0], strict=True))
            for name in absent:
                wanted[name] = found[name] = examples[name]
        outputs = _attempted(lambda: model.program.graph_module(*(wanted[name] for name in names)), size, self.example)
        feeds = {port.name: found[names[port.position]] for port in model.built.inputs}
        arrays = run_session(self._sessions[model.file], feeds)
        wanted.update(zip(model.segment.outputs, outputs, strict=True))
        found.update(zip(model.segment.outputs, outputs, strict=True))
        for port, array in zip(model.built.outputs, arrays, strict=True):
            found[model.segment.outputs[port.position]] = array

    def _compare_whole(self, phase: Phase, size: int | None, found: Mapping[str, np.ndarray[Any, Any]]) -> None:
        program = self._result.program
        args, kwargs = resized(program, self._whole, size)
        with torch.no_grad():
            leaves = pytree.tree_leaves(program(*args, **kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if len(tensors) != len(phase.outputs):
            raise ExportError(
                f"the partition gives {len(phase.outputs)} outputs and the program {len(tensors)}; partition it again"
            )
        require_passed(
            compare_output(tensor, np.asarray(found[name]), name, size, self._tolerance)
            for name, tensor in zip(phase.outputs, tensors, strict=True)
        )


def _ports(program: Program, like: OnnxModel) -> OnnxModel:
    """The inputs of a whole program that are tensors, with places and batches, in the form that `resized` reads."""
    places = program.graph_module.graph.find_nodes(op="placeholder")
    leaves = pytree.tree_leaves((program.args, dict(program.kwargs)))
    ports = [
        Port(name=node.name, position=place, batched=_is_batched(node.meta.get("val")))
        for place, (node, leaf) in enumerate(zip(places, leaves, strict=True))
        if isinstance(leaf, Tensor)
    ]
    return replace(like, inputs=tuple(ports), outputs=())


def _is_batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and isinstance(value.shape[0], torch.SymInt)


def _attempted(call: Callable[[], Any], size: int | None, example: int | None) -> Any:
    try:
        with torch.no_grad():
            return call()
    except RuntimeError as error:
        if size == example:
            raise
        raise _TorchError(str(error).splitlines()[0]) from error


def _noisy(tensor: Any, generator: torch.Generator) -> Any:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return tensor + noise * (0.1 * tensor.detach().abs().mean())
