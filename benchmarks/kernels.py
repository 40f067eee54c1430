"""Fused kernels beside the operations they replace: bytes moved and, on a GPU, time.

Prints the table of bytes anywhere; measures on a CUDA device alone.
"""

# Nothing is imported here but what Python has: this folder is on the module path of every benchmark, and libraries that
# ask for Hugging Face's package of the same name may import this file instead.
import argparse
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
NAME = "kernels"
TIMES = "## Times"
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def main() -> int:
    """Count, measure where there is a GPU, print the tables and write them down; 1 where a goal is missed."""
    import torch
    from kernel_comparison.cases import cases
    from kernel_comparison.contest import counted, timed
    from kernel_comparison.device import hardware_text
    from kernel_comparison.presentation import goals, time_table
    from kernel_comparison.timing import copy_bandwidth

    options = _options()
    chosen = [case for case in cases() if options.only is None or case.model.lower() in options.only]
    chosen = [case for case in chosen if options.kernels is None or case.kernel in options.kernels]
    if not chosen:
        print("found no case of these models and kernels; see --help")
        return 2
    rows = [[counted(case, getattr(torch, DTYPES[name])) for case in chosen] for name in options.dtypes]
    parts = [hardware_text() + ".\n", _byte_text(rows[0])]
    print("\n".join(parts), flush=True)
    if not torch.cuda.is_available():
        parts.append("Nothing was timed: there is no CUDA device. The table above is counted, not measured.\n")
        print(parts[-1])
        _write(parts, options)
        return 0
    bandwidth = copy_bandwidth(options.rounds)
    measured = []
    for row in (row for of_dtype in rows for row in of_dtype):
        measured.append(timed(row, options.rounds))
        print(time_table(measured[-1:], bandwidth).splitlines()[-1], flush=True)
    reached = goals(measured)
    lines = [f"* {line}: {'met' if met else 'missed'}" for line, met in reached.items()]
    parts += [f"{TIMES}\n", f"A copy of 2 GiB moves {bandwidth / 1e12:.2f} TB/s; {options.rounds} rounds.\n"]
    parts += ["\n".join(lines) + "\n", time_table(measured, bandwidth)]
    print("\n".join(parts[2:]))
    _write(parts, options)
    return 0 if all(reached.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=_names, help="dit-xl/2, sd1.5, sdxl or flux; nothing is written then")
    parser.add_argument("--kernels", type=lambda text: text.split(","), help="names of kernels; as above")
    parser.add_argument("--dtypes", type=_dtypes, default=tuple(DTYPES), help=f"of {', '.join(DTYPES)}")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds, behind one that is not")
    parser.add_argument("--results", type=Path, help="folder to write to, whatever was chosen")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.lower().split(","))


def _dtypes(text: str) -> tuple[str, ...]:
    chosen = _names(text)
    if not set(chosen) <= set(DTYPES):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted some of {', '.join(DTYPES)}")
    return chosen


def _byte_text(rows: list) -> str:
    from kernel_comparison.presentation import DIFFERENCES, byte_table, operation_table

    parts = [
        "## Bytes, of tensors of two bytes a value\n",
        byte_table(rows),
        DIFFERENCES,
        "Operations counted, in hidden tensors:\n",
    ]
    return "\n".join([*parts, operation_table(rows)])


def _write(parts: list[str], options: argparse.Namespace) -> None:
    """Write the results of a whole run; those without times replace none with them."""
    if options.results is None and (options.only or options.kernels or options.dtypes != tuple(DTYPES)):
        return
    file = (options.results or RESULTS) / f"{NAME}.md"
    times_there = file.exists() and TIMES in file.read_text(encoding="utf-8")
    if times_there and not any(part.startswith(TIMES) for part in parts):
        print(f"{file} has times and stays as it is")
        return
    call = " ".join([NAME, *sys.argv[1:]])
    head = ["# Kernels\n", f"Written by `make bench ARGS='{call}'`; `benchmarks/README.md` says how to read it.\n"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*head, *parts]), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
