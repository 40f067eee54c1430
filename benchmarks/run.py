"""Entry of `make bench`: lists the benchmarks, or runs those that are named.

make bench                                      the list
make bench ARGS="all"                           all of them
make bench ARGS="pruning_vs_torch_pruning --only llama,resnet50"
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
BENCHMARKS = {
    "pruning_vs_torch_pruning": "graphopt beside Torch-Pruning: works, exact, seconds, memory (about half an hour)",
    "apply_checkpoint": "a plan carried out on a sharded checkpoint of 6 GB: peak of memory (about five minutes)",
    "backend": "torch.compile on models with structured zeros, beside eager and inductor (about half an hour)",
    "caching": "caches beside the systems they are named after: speed, memory, compilers (about an hour)",
    "caching_quality": "caches beside fewer steps at equal time, on trained digit models (about half an hour)",
    "kernels": "bytes that fused kernels move; on a GPU their bandwidth, beside eager and inductor (about ten minutes)",
    "compensation": "accuracy with and without compensated statistics, on trained digit models",
    "gpu_end_to_end": "full-size denoisers on a GPU: eager, compiled, cached, with fused kernels (about half an hour)",
    "partition": "programs over devices: splits, runs of two processes, memory, forecast (about half an hour)",
    "partition_quality": "late values beside fewer steps at equal time, on trained digit models (about half an hour)",
    "prune_speed": "CPU seconds of a whole prune beside Torch-Pruning: zoo, depth, full size (about two hours)",
    "unet_scale": "a Stable Diffusion 1.5 U-Net: seconds of analysis, memory of pruning (about five minutes)",
}
"""Name of the script: what it measures."""


def main(arguments: list[str]) -> int:
    """Run what the command line names; the exit status is that of the first that failed."""
    if not arguments or arguments[0] in ("-h", "--help", "list"):
        print(__doc__)
        for name, text in BENCHMARKS.items():
            print(f"  {name:26} {text}")
        return 0
    name, *options = arguments
    if name != "all" and name not in BENCHMARKS:
        print(f"found no benchmark {name!r}; wanted all, or one of {', '.join(BENCHMARKS)}")
        return 2
    chosen = BENCHMARKS if name == "all" else [name]
    codes = [_run(item, options) for item in chosen]
    return next((code for code in codes if code), 0)


def _run(name: str, options: list[str]) -> int:
    path = os.pathsep.join((str(FOLDER), str(FOLDER.parent / "tests")))
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
