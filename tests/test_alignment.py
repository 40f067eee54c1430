import pytest
import torch

from graphopt.alignment import alignment, next_multiple, preferred_multiple, units_step


@pytest.mark.parametrize(
    ("dtype", "multiple"),
    [(torch.float64, 2), (torch.float32, 4), (torch.float16, 8), (torch.bfloat16, 8), (torch.int8, 16)],
    ids=str,
)
def test_tensor_cores_take_sixteen_bytes(dtype: torch.dtype, multiple: int) -> None:
    assert preferred_multiple(dtype, "cuda") == multiple


@pytest.mark.parametrize(("capability", "lanes"), [("AVX512", 16), ("AVX2", 8), ("DEFAULT", 4)])
def test_vectors_of_a_cpu(monkeypatch: pytest.MonkeyPatch, capability: str, lanes: int) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert preferred_multiple(torch.float32, "cpu") == lanes
    assert preferred_multiple(torch.int8, "cpu") == lanes
    assert preferred_multiple(torch.float64, "cpu") == lanes // 2
    assert f"{4 * lanes} bytes ({capability})" in alignment(torch.float32, "cpu").reason


def test_multiples_and_steps() -> None:
    assert [next_multiple(size, 8) for size in (1, 8, 9)] == [8, 8, 16]
    assert [units_step(16, per_unit) for per_unit in (1, 4, 6, 64)] == [16, 4, 8, 1]
