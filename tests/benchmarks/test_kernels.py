import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F


def counted(call, *arguments):
    from kernel_comparison.counting import count

    found = count(call, arguments)
    assert found.total == sum(size for _, size in found.operations)
    return found.operations


def test_every_operand_and_result_is_counted_once() -> None:
    x = torch.empty(4, 8, dtype=torch.bfloat16, device="meta")
    assert counted(torch.add, x, x) == [("add", 2 * 64)]
    assert counted(torch.add, x, x.clone()) == [("add", 3 * 64)]
    assert counted(lambda: x.float()) == [("_to_copy", 64 + 128)]


def test_broadcast_operands_are_read_once_and_views_are_free() -> None:
    x, row = torch.empty(4, 8, device="meta"), torch.empty(8, device="meta")
    assert counted(torch.mul, x, row) == [("mul", 2 * 128 + 32)]
    assert counted(torch.mul, x, row.expand(4, 8)) == [("mul", 2 * 128 + 32)]
    assert counted(lambda: x.view(8, 4).t().unsqueeze(0).chunk(2)[0][:, 1:]) == []
    assert counted(lambda: torch.empty_like(x)) == []


def test_writing_in_place_reads_and_writes() -> None:
    x, y = torch.empty(4, 8, device="meta"), torch.empty(4, 8, device="meta")
    assert counted(lambda: x.add_(y)) == [("add_", 3 * 128)]


def test_group_norm_reads_its_input_twice() -> None:
    x = torch.empty(2, 4, 6, device="meta")
    (name, size), *others = counted(F.group_norm, x, 2)
    assert (name, others) == ("native_group_norm", [])
    assert size == 3 * x.nbytes + 2 * 2 * 2 * 4  # mean and deviation of two groups of two samples


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_single_operations_move_what_the_kernels_say(dtype: torch.dtype) -> None:
    from kernel_comparison.cases import Maker, cases
    from kernel_comparison.contest import counted as row_of

    for case in cases():
        row, arguments = row_of(case, dtype), case.make(Maker("meta", dtype))
        assert not row.refused, f"{case}: {row.refused}"
        if case.kernel == "channel_statistics" and dtype != torch.float32:
            continue  # its reference goes over to float32, which the kernel's own count leaves out
        said = case.entry.bytes_before(*arguments)
        assert abs(row.before - said) <= 0.03 * row.unit, f"{case}: counted {row.before}, the kernel says {said}"


def test_counts_are_those_of_the_estimates_or_explained() -> None:
    from kernel_comparison.cases import cases
    from kernel_comparison.contest import counted as row_of

    found = {}
    for case in cases():
        row = row_of(case, torch.bfloat16)
        units = (round(row.before / row.unit), round(row.after / row.unit))
        if case.estimate is not None and units != case.estimate:
            found.setdefault(case.kernel, set()).add((case.estimate, units))
    assert found == {
        "split_group_norm": {((18, 10), (14, 6))},
        "taylor_add": {((14, 4), (8, 4)), ((19, 5), (13, 5))},
        "relative_l1": {((12, 3), (12, 4))},
    }


def test_without_a_gpu_the_table_is_printed_and_nothing_timed(benchmarks: Path, tmp_path: Path) -> None:
    said = _run(benchmarks, "--only", "dit-xl/2", "--results", str(tmp_path))
    line = "| DiT-XL/2 | cached_apply | 2 × 256 × 1152 | 1.18 | 13.00 | 4.73 | 11.02 | 4.01 | 2.75 | 11 → 4 |"
    assert line in said
    assert "Nothing was timed: there is no CUDA device." in said
    assert line in (tmp_path / "kernels.md").read_text(encoding="utf-8")


def test_times_are_not_replaced_by_none(benchmarks: Path, tmp_path: Path) -> None:
    (tmp_path / "kernels.md").write_text("## Times\n", encoding="utf-8")
    assert "has times and stays as it is" in _run(benchmarks, "--only", "dit-xl/2", "--results", str(tmp_path))
    assert (tmp_path / "kernels.md").read_text(encoding="utf-8") == "## Times\n"


def _run(benchmarks: Path, *options: str) -> str:
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(benchmarks), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(benchmarks / "kernels.py"), *options]
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert completed.returncode == 0, completed.stderr[-2000:]
    return completed.stdout
