"""Processes that die, stop, or lose the network: the run ends in time, says who it was, and leaves nobody behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oracle import inputs, loop, oracle

from graphopt.errors import DeviceFailureError
from graphopt.runtime.distributed.launch import launch

SCRIPT = str(Path(__file__).parent / "rank_script.py")
TIMEOUT = 3


def left(mark: str) -> list[str]:
    """Processes of a run that still live."""
    shown = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if mark in line and " Z" not in line and "ps -eo" not in line]


def launching(*words: str) -> str:
    """Text of a program that launches the script."""
    command = [sys.executable, SCRIPT, *words]
    return f"from graphopt.runtime.distributed.launch import launch; launch({command!r}, 2)"


def ended(fault: str, rank: int) -> str:
    mark = f"{TIMEOUT}.{os.getpid()}"
    with pytest.raises(DeviceFailureError) as found:
        launch([sys.executable, SCRIPT, fault, str(rank), mark], 2)
    assert left(f"{SCRIPT} {fault} {rank} {mark}") == []
    return str(found.value)


def test_a_killed_process() -> None:
    text = ended("kill", 1)
    assert text.startswith(
        "rank 1 was killed by SIGKILL: rank 1 closed the connection while rank 0 waits for out: 1 -> 0"
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", ["stop", "sleep", "exit"])
def test_a_process_that_stops_or_leaves(fault: str, rank: int) -> None:
    found = "closed the connection" if fault == "exit" else f"did not answer within {TIMEOUT}"
    assert re.match(rf"rank {rank} {found}", ended(fault, rank))


@pytest.mark.slow
def test_nothing_goes_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    launch([sys.executable, SCRIPT, "none", "0", "10"], 2)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_under_torchrun() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT]
    done = subprocess.run([*command, "none", "0", "10"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    wanted = float(sum(one.double().sum() for one in loop(oracle(1), 6, inputs())))
    assert f"sum {wanted!r}" in done.stdout
    failed = subprocess.run([*command, "kill", "1", "3"], capture_output=True, text=True, timeout=60)
    assert failed.returncode != 0


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them() -> None:
    mark = f"60.{os.getpid()}"
    code = launching("sleep", "1", mark)
    launcher = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while len(left(f"{SCRIPT} sleep 1 {mark}")) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(8)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    time.sleep(2)
    assert left(f"{SCRIPT} sleep 1 {mark}") == []


@pytest.mark.slow
def test_a_link_that_is_cut() -> None:
    unshare = shutil.which("unshare")
    allowed = (
        unshare and subprocess.run([unshare, "-n", "ip", "link", "set", "lo", "up"], capture_output=True).returncode
    )
    if allowed != 0:
        pytest.skip("this machine lets nobody make a network namespace")
    code = launching("link", "0", "3")
    shell = f'ip link set lo up && exec {sys.executable} -c "{code}"'
    begun = time.monotonic()
    done = subprocess.run(["unshare", "-n", "sh", "-c", shell], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert time.monotonic() - begun < 45
    assert "did not answer within 3 s" in done.stderr
