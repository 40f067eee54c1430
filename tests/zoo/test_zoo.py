"""Real architectures: prune half of every axis at random, prove it, and run at two batch sizes.

A part of the zoo runs with every `make test`; `make zoo` runs all of it.
"""

import math

import pytest
import torch
from torch.utils import _pytree as pytree
from zoo.catalogue import LIBRARIES, Entry, entries
from zoo.other_models import PAPERS
from zoo.other_packages import NotInstalledError

import graphopt
from graphopt.example_inputs import ExampleInputs
from graphopt.opaque import whole_names
from graphopt.program import Program

ALWAYS = {
    "peer_failures": slice(None),
    "torchvision": slice(0, None, 9),
    "timm": slice(0, None, 18),
    "transformers": slice(0, None, 20),
    "diffusers": slice(1, None, 14),
    "others": slice(0, len(PAPERS), 5),
}
"""Entries of each library that run always; the others run with the slow tests."""

WEIGHTS_DECIDE = {"dbrx", "hidream", "switch_transformers"}
"""Models whose weights decide which calls are made, as loops over the experts that were hit: these are kept whole."""


def parameters() -> list[object]:
    found: list[object] = []
    for library in LIBRARIES:
        always = entries(library)[ALWAYS[library]]
        for entry in entries(library):
            marks = [] if entry in always else [pytest.mark.slow]
            found.append(pytest.param(entry, marks=marks, id=f"{library}-{entry.name}"))
    return found


def shapes(program: Program, inputs: ExampleInputs) -> list[tuple[int, ...]]:
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (inputs.args, dict(inputs.kwargs)))
    with torch.no_grad():
        outputs = program(*args, **kwargs)
    return [tuple(leaf.shape) for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


@pytest.mark.filterwarnings("ignore")  # what the libraries warn of is theirs
@pytest.mark.parametrize("entry", parameters())
def test_half_goes_and_the_proof_holds(entry: Entry) -> None:
    try:
        model, args, kwargs = entry.build()
    except NotInstalledError as missing:
        pytest.skip(str(missing))
    program = graphopt.capture(model, args, kwargs)
    assert bool(whole_names(program.nodes())) == (entry.name in WEIGHTS_DECIDE)
    assert graphopt.DependencyGraph(program).analysis.failures == {}
    context = graphopt.PassContext(seed=0, verify=False)
    result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program, context)
    report = graphopt.verify(program, result)
    errors = {check.law: check.error for check in report.checks}
    assert errors["mask equals slice"] < 1e-4
    figures = result.report.passes[0]
    assert figures.after["parameters"] < figures.before["parameters"]
    inputs = ExampleInputs(program.args, program.kwargs)
    assert shapes(result.program, inputs) == shapes(program, inputs)
    assert math.isfinite(figures.after["macs"])
