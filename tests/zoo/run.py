"""`make zoo`: one row a model, written to docs/zoo.md.

Every model is tried in a process of its own, forked after the libraries were imported; one that hangs, or takes more
memory than there is, is a row of the table like any other.
"""

import argparse
import fnmatch
import json
import math
import multiprocessing
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn
from zoo import registry
from zoo.catalogue import LIBRARIES, Entry, entries
from zoo.row import Row, try_entry
from zoo.table import page, summary
from zoo.torchvision_operators import torchvision_operators

import graphopt

FORKED = multiprocessing.get_context("fork")
MEMORY_BYTES = 12 << 30
NOT_TRIED = "not tried in"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the models that were asked for, print a line each, and write the table.

    Returns:
        0 where every model passes; 1 otherwise.
    """
    options = _options(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    operators = torchvision_operators()  # needed as long as torchvision is
    wanted = list(_wanted(options.only, by_hand=options.by_hand))
    _warm_up()
    begun = time.monotonic()
    options.end = begun + 60 * options.minutes
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda pair: _tried(*pair, options), wanted))
    del operators
    if options.keep is not None:
        rows, options.kept = onto(_read(options.keep), rows)
    rows.sort(key=lambda row: (LIBRARIES.index(row.library), row.name))
    print(summary(rows))
    if options.out is not None:
        seconds = time.monotonic() - begun
        options.out.write_text(page(rows, options.command, seconds, kept=options.kept), encoding="utf-8")
    if options.json is not None:
        options.json.write_text(json.dumps([row.to_dict() for row in rows], indent=1) + "\n", encoding="utf-8")
    return int(any(row.failure for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make zoo", description=__doc__)
    parser.add_argument("--only", default="*", help="patterns of library/name, with commas, such as timm/*,*/llama")
    parser.add_argument("--by-hand", action="store_true", help="leave out families that a general rule has to shrink")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that a model may take")
    parser.add_argument("--minutes", type=float, default=math.inf, help="do not begin another model after so many")
    parser.add_argument(
        "--onnx-every", type=int, default=6, metavar="N", help="compare every Nth in ONNX Runtime; 0: none"
    )
    parser.add_argument(
        "--alone-every", type=int, default=10, metavar="N", help="prove each axis of every Nth by itself; 0: of none"
    )
    parser.add_argument("--out", type=Path, help="write the table into this Markdown file")
    parser.add_argument("--keep", type=Path, help="rows of an earlier run, kept where this one does not come to them")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    options = parser.parse_args(arguments)
    given = [f"--only {options.only}"] * (options.only != "*") + ["--by-hand"] * options.by_hand
    given += [f"--minutes {options.minutes:g}"] * math.isfinite(options.minutes)
    given += [f"--keep {options.keep.name}"] if options.keep else []
    options.kept = 0
    options.command = f'make zoo ARGS="{" ".join(given)}"' if given else "make zoo"
    return options


def onto(earlier: Sequence[Row], rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows of a run, with those of an earlier one that it did not come to; also how many those are."""
    tried = [row for row in rows if not row.failure.startswith(NOT_TRIED)]
    again = {(row.library, row.name) for row in tried}
    kept = [row for row in earlier if (row.library, row.name) not in again]
    return [*tried, *kept], len(kept)


def _read(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def _wanted(only: str, *, by_hand: bool) -> Iterator[tuple[int, Entry]]:
    """Entries that fit a pattern, with their places; behind those shrunk by hand the families of the registries."""
    patterns = only.split(",")
    for library in LIBRARIES:
        if all(pattern.partition("/")[0] not in ("*", library) for pattern in patterns):
            continue
        families = () if by_hand or library not in registry.REGISTRIES else registry.entries(library)
        for place, entry in enumerate((*entries(library), *families)):
            if any(fnmatch.fnmatch(f"{library}/{entry.name}", pattern) for pattern in patterns):
                yield place, entry


def _warm_up() -> None:
    """Import what every model needs before the processes part."""
    small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    program = graphopt.capture(small, (torch.zeros(2, 4),))
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program, graphopt.PassContext())
    graphopt.verify(program, result)
    for name in ("onnxruntime", "onnxscript", "torch.onnx", "torch.onnx._internal.exporter._core"):
        import_module(name)


def _tried(place: int, entry: Entry, options: argparse.Namespace) -> Row:
    """Try an entry in a process of its own and print a line."""
    if time.monotonic() > options.end:
        return Row(entry.name, entry.library, f"{NOT_TRIED} {options.minutes:g} minutes")
    onnx = bool(options.onnx_every) and place % options.onnx_every == 0
    alone = bool(options.alone_every) and place % options.alone_every == 0
    ours, theirs = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_work, args=(entry, onnx, alone, theirs), daemon=True)
    process.start()
    theirs.close()
    row = _answer(ours, process, Row(entry.name, entry.library), options.limit)
    print(f"{row.library}/{row.name}: {row.failure or 'passes'}", flush=True)
    return row


def _answer(ours: Connection, process: multiprocessing.process.BaseProcess, row: Row, limit: float) -> Row:
    try:
        if ours.poll(limit):
            return Row(**ours.recv())
        row.failure = f"not done after {limit:g} s"
    except EOFError:
        process.join(5)
        row.failure = f"the process ended with code {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return row


def _work(entry: Entry, onnx: bool, alone: bool, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        answer.send(try_entry(entry, onnx=onnx, alone=alone).to_dict())


if __name__ == "__main__":
    sys.exit(main())
