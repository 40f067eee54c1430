"""A plan carried out on a sharded checkpoint of 6 GB: bytes of each shard, seconds, and the peak of resident memory.

A Llama-shaped model is captured and analysed on the meta device, and every second unit goes. Its checkpoint is written
with random bits of bf16, shard by shard. The plan is then carried out in a process of its own, whose resident memory is
watched; the goal is at most two shards over what is resident before. Last, every seventh tensor is compared with
slicing in memory, bit for bit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from machine import machine_text
from process_memory import current_bytes, peak_bytes, restart_peak
from safetensors import safe_open
from safetensors.torch import save_file
from zoo.torchvision_operators import torchvision_operators

import graphopt
from graphopt.exporters.applying import apply_plan, read_plan
from graphopt.exporters.checkpoint import open_checkpoint
from graphopt.plan import make_plan

OPERATORS = torchvision_operators()  # before transformers is imported
RESULTS = Path(__file__).parent / "results"
INDEX = "model.safetensors.index.json"
GOAL = 2.0
LAYER_GIGABYTES = 0.2013
"""A layer of the widths below in bf16."""


def main() -> int:
    """Run every part in a process of its own, or the one named; the exit status says whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=6.0, help="size of the checkpoint")
    parser.add_argument("--shard", type=float, default=1.0, help="gigabytes of a shard")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary folder by default")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = {part: _run(part, options, Path(folder)) for part in PARTS}
    text = _text(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "apply_checkpoint.txt").write_text(text, encoding="utf-8")
    print(text)
    return 0 if _shards(found["apply"]) <= GOAL and found["check"]["unequal"] == [] else 1


def choose(options: argparse.Namespace) -> dict[str, Any]:
    """Keep every second unit of every axis of a model on the meta device, and write the plan."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=max(1, round((options.gigabytes - 0.4) / LAYER_GIGABYTES)),
        num_attention_heads=24,
        num_key_value_heads=8,
        use_cache=False,
        dtype=torch.bfloat16,
    )
    start = time.process_time()
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
        tokens = torch.zeros(2, 16, dtype=torch.long)
    graph = graphopt.DependencyGraph(graphopt.capture(model, (tokens,)))
    kept = {group.id: tuple(range(0, group.size, 2)) for group in graph.groups}
    plan = make_plan(graph, kept, ())
    (options.folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    return {"layers": config.num_hidden_layers, "seconds": time.process_time() - start}


def write_checkpoint(options: argparse.Namespace) -> dict[str, Any]:
    """Write random bits under the model's names, a shard at a time."""
    plan = read_plan(options.folder / "plan.json")
    folder = options.folder / "original"
    folder.mkdir()
    shapes = {name: shape for name, shape in plan.source.tensors.items() if name not in plan.source.unsaved}
    parts = list(_parts(shapes, options.shard * 1e9))
    places: dict[str, str] = {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        tensors = {name: _random(shapes[name]) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return {"shards": len(parts), "bytes": sum(file.stat().st_size for file in folder.iterdir())}


def apply(options: argparse.Namespace) -> dict[str, Any]:
    """Carry the plan out and watch the memory of this process."""
    before = current_bytes()
    restart_peak()
    start, cpu = time.perf_counter(), time.process_time()
    done = apply_plan(options.folder / "plan.json", options.folder / "original" / INDEX, options.folder / "small")
    original = {file.name: file.stat().st_size for file in (options.folder / "original").glob("*.safetensors")}
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "resident_before": before,
        "peak": peak_bytes(),
        "original": original,
        "files": dict(done.files),
        "changed": len(done.changed),
    }


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Compare every seventh tensor with slicing in memory."""
    plan = read_plan(options.folder / "plan.json")
    old, new = open_checkpoint(options.folder / "original"), open_checkpoint(options.folder / "small")
    names = [name for number, name in enumerate(old.entries) if number % 7 == 0]
    unequal = [name for name in names if not _equal(_read(new, name), plan.new_value(name, _read(old, name)))]
    return {"compared": len(names), "unequal": unequal}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "plan": choose,
    "write": write_checkpoint,
    "apply": apply,
    "check": check,
}


def _run(part: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sizes = ("--gigabytes", str(options.gigabytes), "--shard", str(options.shard))
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), *sizes]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _parts(shapes: dict[str, tuple[int, ...]], most_bytes: float) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for name, shape in shapes.items():
        own = 2 * torch.Size(shape).numel()
        if part and size + own > most_bytes:
            yield part
            part, size = [], 0
        part.append(name)
        size += own
    yield part


def _random(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16).view(torch.bfloat16)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors are the same bits, NaN among them."""
    return torch.equal(one.view(torch.int16), other.view(torch.int16))


def _read(checkpoint: Any, name: str) -> torch.Tensor:
    file = next(file for file, entries in checkpoint.files.items() if name in entries)
    with safe_open(checkpoint.folder / file, framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
        return tensor.clone()


def _shards(found: dict[str, Any]) -> float:
    """Peak over what was resident before, in shards of the largest size."""
    return float((found["peak"] - found["resident_before"]) / max(found["original"].values()))


def _text(found: dict[str, Any]) -> str:
    done, checked = found["apply"], found["check"]
    lines = [machine_text(("torch", "safetensors", "transformers")), ""]
    lines += [f"plan: {found['plan']['layers']} layers on the meta device, {found['plan']['seconds']:.1f} CPU seconds"]
    lines += [
        f"{name}  {size / 1e9:.3f} GB -> {done['files'][name] / 1e9:.3f} GB"
        for name, size in sorted(done["original"].items())
    ]
    whole, small = sum(done["original"].values()), sum(done["files"].values())
    lines.append(f"all: {whole / 1e9:.2f} GB -> {small / 1e9:.2f} GB, {done['changed']} tensors sliced")
    lines.append(f"{done['seconds']:.1f} s, {done['cpu_seconds']:.1f} CPU seconds, with checksums and flushing to disk")
    before, peak = done["resident_before"] / 1e9, done["peak"] / 1e9
    lines.append(
        f"resident: {before:.2f} GB before, peak {peak:.2f} GB, {_shards(done):.2f} shards more (goal {GOAL:g})"
    )
    lines.append(f"{checked['compared']} tensors compared with slicing in memory, {len(checked['unequal'])} unequal")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
