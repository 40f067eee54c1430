import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.tensor_file import read_tensors, write_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_values_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 10).to(dtype)
    write_tensors(tmp_path / "x", {"a": tensor})
    found = read_tensors(tmp_path / "x")["a"]
    assert (found.dtype, found.shape) == (dtype, tensor.shape)
    assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_nan_and_infinity_come_back(tmp_path: Path) -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    write_tensors(tmp_path / "x", {"a": tensor})
    assert torch.equal(read_tensors(tmp_path / "x")["a"].view(torch.int32), tensor.view(torch.int32))


def test_tied_names_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(100, 100))
    write_tensors(tmp_path / "x", {"head": weight, "embedding": weight, "alone": torch.ones(2)})
    assert set(load_file(tmp_path / "x")) == {"alone", "embedding"}
    assert (tmp_path / "x").stat().st_size < 1.1 * 100 * 100 * 4
    found = read_tensors(tmp_path / "x")
    assert torch.equal(found["head"], weight)
    assert found["head"] is found["embedding"]


def test_views_of_one_storage_are_no_tie(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"base": base, "row": base[0], "transposed": base.T, "wide": base[:1].expand(5, 4), "same": base[:]}
    write_tensors(tmp_path / "x", tensors)
    found = read_tensors(tmp_path / "x")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in tensors.items()}
    assert found["same"] is found["base"]


def test_the_order_in_memory_comes_back(tmp_path: Path) -> None:
    tensors = {
        "image": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "turned": torch.randn(3, 4).t(),
        "gaps": torch.randn(4, 6)[:, ::2],
        "wide": torch.randn(1, 4).expand(3, 4),
        "plain": torch.randn(3, 4),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    strides = {name: tensor.stride() for name, tensor in found.items()}
    assert strides == {
        "image": (60, 1, 15, 3),
        "turned": (1, 4),
        "gaps": (3, 1),
        "wide": (4, 1),
        "plain": (4, 1),
    }


def test_some_tensors_alone(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    write_tensors(tmp_path / "x.safetensors", {"a": weight, "b": weight, "c": torch.randn(2)})
    found = read_tensors(tmp_path / "x.safetensors", ["b"])
    assert list(found) == ["b"]
    assert torch.equal(found["b"], weight)
    both = read_tensors(tmp_path / "x.safetensors", ["a", "b"])
    assert both["a"] is both["b"]
    with pytest.raises(PlanError, match="cannot be read"):
        read_tensors(tmp_path / "x.safetensors", ["d"])


def test_lazy_conjugates_and_negatives_are_carried_out(tmp_path: Path) -> None:
    tensor = torch.tensor([1 + 2j, 3 - 1j])
    write_tensors(tmp_path / "x", {"conjugate": tensor.conj(), "negative": tensor.conj().imag})
    found = read_tensors(tmp_path / "x")
    assert found["conjugate"].tolist() == [1 - 2j, 3 + 1j]
    assert found["negative"].tolist() == [-2.0, 1.0]


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from pathlib import Path; from graphopt.exporters.tensor_file import write_tensors\n"
        "tensors = {name: torch.full((3,), float(place)) for place, name in enumerate('hgfedcba')}\n"
        "write_tensors(Path(sys.argv[1]), tensors | {'z': tensors['a'], 'y': tensors['b']})"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "1")], check=True, timeout=120)
    tensors = {name: torch.full((3,), float("hgfedcba".index(name))) for name in "abcdefgh"}
    write_tensors(tmp_path / "2", {"y": tensors["b"], "z": tensors["a"], **tensors})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.empty(3, device="meta"), "has no values"),
        (torch.eye(3).to_sparse(), "is sparse or quantised"),
        (torch.ones(2, dtype=torch.complex128), "is complex128"),
    ],
)
def test_what_safetensors_does_not_know_is_refused(tmp_path: Path, tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ExportError, match=f"'layer.weight' {message}"):
        write_tensors(tmp_path / "x", {"layer.weight": tensor})
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_is_the_systems_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("graphopt.exporters.tensor_file.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_tensors(tmp_path / "x", {"a": torch.ones(2)})
    assert caught.value.errno == 28


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(PlanError, match=f"{tmp_path / 'x'} cannot be read"):
        read_tensors(tmp_path / "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=f"{tmp_path / 'x'} cannot be read"):
        read_tensors(tmp_path / "x")


def test_a_file_of_others_is_named(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "x")
    with pytest.raises(PlanError, match="cannot be read"):
        read_tensors(tmp_path / "x")
    metadata = {"graphopt": '{"version": 9, "aliases": {}}'}
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "y", metadata=metadata)
    with pytest.raises(PlanError, match="is of version 9, wanted 1"):
        read_tensors(tmp_path / "y")
