"""Programs whose graph is one call of ONNX Runtime: a session plays them as it plays those of torch."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.dlpack import from_dlpack

from graphopt.errors import GraphoptError
from graphopt.exporters.onnx_schedule import OnnxSchedule, StepFile
from graphopt.exporters.onnx_steps import input_name, output_name
from graphopt.exporters.runtime import runtime_errors, session
from graphopt.program import Program, Source
from graphopt.schedule import Schedule

BFLOAT16 = 16
"""Number of that type in ONNX; numpy has none."""


@dataclass(frozen=True)
class OnnxResult:
    """What a session plays.

    Attributes:
        programs: The programs by id. They take the tensors among the model's inputs by place, in the order of
            ``schedule.json``, and return the model's output tensors as a flat tuple.
        schedule: Which of them runs at which step.
        device: Where ONNX Runtime computes.
    """

    programs: Mapping[str, Program]
    schedule: Schedule
    device: torch.device


class OnnxCall(nn.Module):
    """One run of an ONNX file. Inputs and outputs are bound where they lie; nothing is copied on the device.

    Args:
        opened: An ``onnxruntime.InferenceSession``.
        inputs: Names of the inputs, in the order in which they are given.
        outputs: Names of the outputs to return.
        device: Where ONNX Runtime computes.
    """

    def __init__(self, opened: Any, inputs: Sequence[str], outputs: Sequence[str], device: torch.device) -> None:
        super().__init__()
        self._opened = opened
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._device = device

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the file.

        Raises:
            GraphoptError: The inputs do not fit the file, or ONNX Runtime fails.
        """
        place = self._device.type, self._device.index or 0
        held = [_plain(tensor, self._device) for tensor in tensors]
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # ONNX Runtime works on a stream of its own
        binding = self._opened.io_binding()
        try:
            for name, tensor in zip(self._inputs, held, strict=True):
                binding.bind_input(name, *place, _element_type(tensor), tuple(tensor.shape), tensor.data_ptr())
            for name in self._outputs:
                binding.bind_output(name, *place)
            self._opened.run_with_iobinding(binding)
        except runtime_errors() as error:
            raise GraphoptError(f"ONNX Runtime failed: {error}") from error
        return tuple(_tensor(value) for value in binding.get_outputs())


def open_programs(folder: Path, described: OnnxSchedule, providers: Sequence[Any] | None, threads: int) -> OnnxResult:
    """Open the files of a schedule in ONNX Runtime.

    Args:
        folder: What `export_onnx` wrote.
        described: Its ``schedule.json``.
        providers: Execution providers of ONNX Runtime, the CPU's by default.
        threads: Threads that one operator may use.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ExportError: ONNX Runtime cannot load a file.
    """
    sessions = {name: session(folder / entry.file, threads, providers) for name, entry in described.programs.items()}
    device = _device(next(iter(sessions.values())))
    programs = {
        name: _program(name, described, entry, sessions[name], device) for name, entry in described.programs.items()
    }
    return OnnxResult(programs, described.schedule, device)


def _program(name: str, described: OnnxSchedule, entry: StepFile, opened: Any, device: torch.device) -> Program:
    schedule = described.schedule
    extras = schedule.inputs(name)
    filled = {output_name(key): key for key in schedule.outputs(name)}
    own = [output for output in entry.outputs if output not in filled]
    graph = fx.Graph()
    places = {str(tensor["name"]): graph.placeholder(str(tensor["place"])) for tensor in described.tensors}
    places |= {input_name(key): graph.placeholder(key) for key in extras}
    call = graph.call_module("onnx", tuple(places[read] for read in entry.inputs))
    values = {
        output: graph.call_function(operator.getitem, (call, number)) for number, output in enumerate(entry.outputs)
    }
    kept = {key: values[output] for output, key in filled.items()}
    graph.output((tuple(values[output] for output in own), kept))
    root = nn.Module()
    root.add_module("onnx", OnnxCall(opened, entry.inputs, entry.outputs, device))
    origin = described.origin
    return Program(
        graph_module=fx.GraphModule(root, graph),
        args=tuple(torch.empty(0, device="meta") for _ in described.tensors),
        kwargs={key: torch.empty(0, device="meta") for key in extras},
        source=Source(origin.get("graphopt.source_class", ""), origin.get("graphopt.source_fingerprint", "")),
        dynamic_batch=any("batch" in tensor["shape"] for tensor in described.tensors),
    )


def _device(opened: Any) -> torch.device:
    """Where a session wants its inputs: the first of its providers decides."""
    first = str(opened.get_providers()[0])
    if not first.startswith(("CUDA", "Tensorrt", "ROCM", "MIGraphX", "NvTensorRT")):
        return torch.device("cpu")
    return torch.device("cuda", int(opened.get_provider_options().get(first, {}).get("device_id", 0)))


def _plain(tensor: Tensor, device: torch.device) -> Tensor:
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.detach().to(device).contiguous().resolve_neg()


def _element_type(tensor: Tensor) -> Any:
    return BFLOAT16 if tensor.dtype == torch.bfloat16 else torch.empty(0, dtype=tensor.dtype).numpy().dtype.type


def _tensor(value: Any) -> Tensor:
    """A tensor over the memory of an OrtValue, which lives as long as the tensor."""
    inner = value._ortvalue
    if not hasattr(inner, "to_dlpack"):
        return torch.from_numpy(value.numpy())
    tensor = from_dlpack(inner.to_dlpack())
    return tensor.to(torch.bool) if value.data_type() == "tensor(bool)" else tensor
