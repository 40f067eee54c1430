import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch

from graphopt.errors import ExportError, MissingExtraError
from graphopt.exporters.runtime import compare_output, default_tolerance, run_onnx, session, to_array


@pytest.fixture
def affine(tmp_path: Path) -> Path:
    """Write a file with outputs `y = 2 x + b` and `n`, and an input that nothing reads."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    affine (float[batch, 3] x, float[3] b, float[2] unused) => (float[batch, 3] y, int64[2] n)
    <float two = {2.0}> { double = Mul(x, two)  y = Add(double, b)  n = Shape(x) }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "affine.onnx")
    return tmp_path / "affine.onnx"


def compare(expected: torch.Tensor, found: np.ndarray) -> tuple[float, float, bool]:
    error = compare_output(expected, found, "y", 2, 1e-3)
    return error.max_absolute, error.relative, error.passed


def test_inputs_go_by_order_or_by_name(affine: Path) -> None:
    x, b, unused = torch.arange(6.0).reshape(2, 3), np.ones(3, dtype=np.float32), torch.zeros(2)
    wanted = [[1, 3, 5], [7, 9, 11]]
    for inputs in ([x, b, unused], {"b": b, "unused": unused, "x": x}):
        y, n = run_onnx(affine, inputs)
        assert (y.tolist(), n.tolist()) == (wanted, [2, 3])


def test_strided_tensors_and_gradients_do_not_matter(affine: Path) -> None:
    x = torch.arange(6.0).reshape(3, 2).T.requires_grad_()
    y, _ = run_onnx(affine, [x, torch.zeros(6)[::2], np.zeros(2, dtype=np.float32)])
    assert y.tolist() == [[0, 4, 8], [2, 6, 10]]


def test_inputs_that_do_not_fit(affine: Path) -> None:
    x = torch.zeros(2, 3)
    for inputs, found in (([x], "1 values"), ({"x": x, "c": x}, r"\['c', 'x'\]"), ([x, x, x, x], "4 values")):
        with pytest.raises(ExportError, match=rf"takes the inputs \['x', 'b', 'unused'\], found {found}"):
            run_onnx(affine, inputs)
    with pytest.raises(ExportError, match=r"ONNX Runtime failed: [\s\S]*Got: 4 Expected: 3"):
        run_onnx(affine, [torch.zeros(2, 4), torch.zeros(3), torch.zeros(2)])


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"cannot load bad\.onnx"):
        session(tmp_path / "bad.onnx")
    with pytest.raises(ExportError, match=r"cannot load no\.onnx"):
        session(tmp_path / "no.onnx")


def test_the_threads_asked_for_are_set(affine: Path) -> None:
    assert session(affine, threads=3).get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(affine: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'graphopt\[onnx\]'"):
        session(affine)


def test_errors_are_measured_against_the_largest_magnitude() -> None:
    expected = torch.tensor([[100.0, 0.0], [0.0, -50.0]])
    found = expected.numpy() + np.array([[0, 0.05], [0, 0]], dtype=np.float32)
    assert compare(expected, found) == pytest.approx((0.05, 5e-4, True))
    assert compare(expected, found * np.float32(1.1))[2] is False


def test_whole_numbers_must_be_equal() -> None:
    expected = torch.tensor([1000, 2000])
    assert compare(expected, np.array([1000, 2000])) == (0.0, 0.0, True)
    assert compare(expected, np.array([1000, 2001])) == (1.0, 1 / 2000, False)
    assert compare(torch.tensor([True]), np.array([False]))[2] is False


def test_where_torch_is_not_finite_the_file_must_be_the_same() -> None:
    expected = torch.tensor([math.nan, math.inf, -math.inf, 2.0])
    assert compare(expected, expected.numpy()) == (0.0, 0.0, True)
    for place, value in ((0, 1.0), (1, -math.inf), (2, math.nan), (3, math.nan)):
        found = expected.numpy().copy()
        found[place] = value
        assert compare(expected, found) == (math.inf, math.inf, False)


def test_empty_and_zero_outputs() -> None:
    assert compare(torch.zeros(0, 3), np.zeros((0, 3), dtype=np.float32)) == (0.0, 0.0, True)
    assert compare(torch.zeros(2), np.zeros(2, dtype=np.float32)) == (0.0, 0.0, True)
    assert compare(torch.zeros(2), np.full(2, 0.5, dtype=np.float32)) == (0.5, 0.5, False)


def test_complex_and_bfloat16_outputs() -> None:
    value = torch.tensor([1 + 2j])
    assert compare(value.conj(), np.array([[1.0, -2.0]], dtype=np.float32)) == (0.0, 0.0, True)
    assert compare(torch.tensor([1.5], dtype=torch.bfloat16), np.array([1.5])) == (0.0, 0.0, True)
    with pytest.raises(ExportError, match=r"takes no torch\.bfloat16 from Python"):
        to_array(torch.ones(1, dtype=torch.bfloat16))


def test_shapes_that_differ_are_told() -> None:
    with pytest.raises(ExportError, match=r"'y' has shape \[3\] in ONNX Runtime where torch gives \[2\]"):
        compare(torch.zeros(2), np.zeros(3))


def test_the_coarsest_dtype_sets_the_tolerance() -> None:
    assert default_tolerance([]) == default_tolerance([torch.int64, torch.float32]) == 1e-4
    assert default_tolerance([torch.float32, torch.float16]) == 2e-2
    assert default_tolerance([torch.float64]) == 1e-5


def test_ir_and_runtime_agree_on_names(affine: Path) -> None:
    model = onnx_ir.load(affine)
    assert [value.name for value in model.graph.inputs] == [node.name for node in session(affine).get_inputs()]
