"""Small numbers stay in the file: onnxscript takes sums with less than 1e-8 for nothing."""

from pathlib import Path

import torch
from torch import Tensor, nn

from graphopt.exporters.onnx import export_onnx
from graphopt.exporters.runtime import run_onnx
from graphopt.tracing import capture


class Guarded(nn.Module):
    """Divisions that a small number keeps from zero, and factors next to one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4, bias=False), nn.RMSNorm(4, eps=1e-12)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``x: (batch, 4)``."""
        x = self.first(x)
        return {
            "ratio": x / (x.abs() + 1e-15),
            "norm": self.norm(x),
            "less": (x.abs() * 1e-9 - 1e-9) * 1e9,
            "factor": ((x + 2) * 1.000002 - (x + 2)) * 1e4,
            "quotient": ((x + 2) / 1.000002 - (x + 2)) * 1e4,
            "scalar": x.sum() + 1e-9,
        }


def test_small_numbers_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Guarded().eval()
    x = torch.cat([torch.randn(2, 4), torch.zeros(1, 4)])
    report = export_onnx(capture(model, (x,)), tmp_path / "model.onnx", tolerance=1e-2)
    found = dict(zip(report.outputs, run_onnx(report.path, {"x": x}), strict=True))
    wanted = model(x)
    assert (found["ratio"][2] == 0).all()
    assert (found["norm"][2] == 0).all()
    for name, value in wanted.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), value, rtol=1e-2, atol=1e-6)
    assert wanted["less"].max() < 10
    assert wanted["factor"].abs().min() > 1e-3
