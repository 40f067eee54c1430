import json
import os
import subprocess
import sys

HEAVY = ("triton", "diffusers", "transformers", "onnxruntime", "onnx", "onnxscript", "torchvision", "ortools")
PROGRAM = f"""
import json, sys
import graphopt, graphopt.passes, graphopt.kernels, graphopt.exporters, graphopt.pass_manager
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


def test_importing_graphopt_stays_light() -> None:
    # torch itself imports triton where it is installed: only what graphopt adds on top counts.
    bare = f"import json, sys, torch\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    assert set(run(PROGRAM)) - set(run(bare)) == set()


def run(program: str) -> list[str]:
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    names: list[str] = json.loads(completed.stdout.splitlines()[-1])
    return names
