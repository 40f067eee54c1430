"""Denoisers of full size on a GPU, with random weights: eager, compiled, cached, and cached with fused kernels.

Compiled systems run as CUDA graphs. `--tiny` runs everything on small denoisers, on a CPU too, and writes nothing.
"""

import argparse
import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from end_to_end_comparison.contest import Row, compete
from end_to_end_comparison.generation import plan_of
from end_to_end_comparison.players import players
from end_to_end_comparison.presentation import notes, table
from end_to_end_comparison.subjects import SUBJECTS, randomised, subject_of
from kernel_comparison.device import hardware_text

RESULTS = Path(__file__).parent / "results"
NAME = "gpu_end_to_end"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> int:
    """Run what was chosen, print the table and write it down beside what earlier runs on this machine found."""
    options = _options()
    if not (options.tiny or torch.cuda.is_available()):
        print("found no CUDA device, wanted one: these denoisers are of full size; --tiny runs small ones on a CPU")
        return 2
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    hardware = hardware_text()
    print(hardware, flush=True)
    rows = [] if options.tiny else _earlier(hardware, options)
    for name in options.only:
        for dtype in options.dtypes:
            found = _contest(name, dtype, options)
            rows = [row for row in rows if (row.model, row.dtype) != (name, dtype)] + found
            print(f"{table(found)}\n{notes(found)}", flush=True)
            if not options.tiny:
                _write(hardware, rows, options)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small denoisers; nothing is written then")
    parser.add_argument("--only", type=_names(SUBJECTS), default=tuple(SUBJECTS), help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--dtypes", type=_names(DTYPES), help=f"of {', '.join(DTYPES)}; fp16,bf16, with --tiny fp32")
    parser.add_argument("--caches", default="", help="only caches whose label starts so")
    parser.add_argument("--steps", type=int, help="steps of a generation; 50, with --tiny 6")
    parser.add_argument("--rounds", type=int, default=5, help="timed generations")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    options.dtypes = options.dtypes or (("fp32",) if options.tiny else ("fp16", "bf16"))
    options.steps = options.steps or (6 if options.tiny else 50)
    return options


def _names(known):
    def chosen(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted some of {', '.join(known)}")
        return names

    return chosen


def _contest(name: str, dtype: str, options: argparse.Namespace) -> list[Row]:
    """Everyone on one denoiser in one dtype."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    subject = subject_of(name, tiny=options.tiny)
    model = randomised(subject, device, DTYPES[dtype])
    plan = plan_of(subject, device, DTYPES[dtype], options.steps)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}, {count:,} parameters, {dtype}, {options.steps} steps", flush=True)
    torch.compiler.reset()
    caches = tuple(cache for cache in subject.caches(options.steps) if cache.label.startswith(options.caches))
    mode = "reduce-overhead" if device == "cuda" else "default"
    title = f"tiny {name}" if options.tiny else name
    return compete(title, dtype, list(players(model, plan, caches, mode)), plan, options.rounds)


def _earlier(hardware: str, options: argparse.Namespace) -> list[Row]:
    """What earlier runs on the same machine with as many steps and rounds found: a run may take a part."""
    file = options.results / f"{NAME}.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if figures.get("hardware") != hardware or figures.get("protocol") != [options.steps, options.rounds]:
        return []
    return [Row(**{**row, "notes": tuple(row["notes"])}) for row in figures["rows"]]


def _write(hardware: str, rows: list[Row], options: argparse.Namespace) -> None:
    call = " ".join([NAME, *sys.argv[1:]])
    parts = [
        "# Denoisers on a GPU\n",
        f"Written by `make bench ARGS='{call}'`; `benchmarks/README.md` says how to read it.\n",
        f"{hardware}; {options.steps} steps, one picture under guidance, {options.rounds} rounds.\n",
        table(rows),
        notes(rows),
    ]
    figures = {"hardware": hardware, "protocol": [options.steps, options.rounds], "rows": list(map(asdict, rows))}
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / f"{NAME}.md").write_text("\n".join(parts), encoding="utf-8")
    (options.results / f"{NAME}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
