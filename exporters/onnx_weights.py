"""One file of weights for several ONNX models: one tensor, one name, one place."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

INLINE_BYTES = 256
"""Constants that are no weights and at most this large stay inside each file: shapes are inferred from some of them."""


class SharedWeights:
    """The initializers of several models, by name.

    A name stands for the same values in all models. Weights keep the user's names. Constants that the conversion made
    are called after a hash of their values, as it counts them differently in each model.

    Args:
        names: Names of the weights in the program.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._weights = frozenset(names) | {f"{name}.transposed" for name in names}
        self._digests: dict[str, str] = {}
        self._tensors: dict[str, ir.TensorProtocol] = {}

    def add(self, model: ir.Model) -> int:
        """Take in the initializers of a model; the model is changed in place.

        Returns:
            How many bytes it has that no model before it had.
        """
        before = self.size_bytes
        for value in list(model.graph.initializers.values()):
            if value.const_value is not None:
                self._share(model, value, value.const_value)
        return self.size_bytes - before

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors that go into the file of weights."""
        return sum(tensor.nbytes for tensor in self._external().values())

    def write(self, models: Iterable[ir.Model], folder: Path) -> str | None:
        """Write the weights, and let the models refer to them.

        Args:
            models: All models that were taken in; changed in place.
            folder: A folder that nobody else reads yet.

        Returns:
            The name of the file, which holds a hash of its content; None where there are no weights.

        Raises:
            OSError: The file cannot be written.
        """
        import onnx_ir

        tensors = self._external()
        if not tensors:
            return None
        digest = hashlib.sha256("\n".join(f"{name} {self._digests[name]}" for name in sorted(tensors)).encode())
        file_name = f"weights.{digest.hexdigest()[:16]}.data"
        written = onnx_ir.external_data.convert_tensors_to_external(list(tensors.values()), folder, file_name)
        places = dict(zip(tensors, written, strict=True))
        for model in models:
            for name, value in model.graph.initializers.items():
                if name in places:
                    value.const_value = places[name]
        return file_name

    def _share(self, model: ir.Model, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        digest = _digest(tensor)
        name = str(value.name)
        if name not in self._weights or self._digests.get(name, digest) != digest:
            name = f"constant.{digest[:16]}"
        present = model.graph.initializers.get(name)
        if present is not None and present is not value:
            value.replace_all_uses_with(present)
            del model.graph.initializers[str(value.name)]
            return
        value.name = name
        self._digests[name] = digest
        value.const_value = self._tensors.setdefault(name, tensor)

    def _external(self) -> dict[str, ir.TensorProtocol]:
        return {
            name: tensor
            for name, tensor in self._tensors.items()
            if name in self._weights or tensor.nbytes > INLINE_BYTES
        }


def _digest(tensor: ir.TensorProtocol) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}\n".encode())
    digest.update(tensor.tobytes())
    return digest.hexdigest()
