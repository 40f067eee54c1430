"""Real architectures with every statistic compensated: mask equals slice on the models as they are, without a twin."""

import pytest
from zoo.catalogue import Entry, entries

import graphopt
from graphopt.rewrite.compensation import remedies

EVERY = {"transformers": 9, "timm": 16, "diffusers": 10}
"""One in so many entries of each library."""

CHOSEN = [
    pytest.param(entry, id=f"{library}-{entry.name}")
    for library in EVERY
    for entry in entries(library)[:: EVERY[library]]
]
STAY = {"transformers/nystromformer": 2, "diffusers/unet_1d": 6, "diffusers/stable_cascade_unet": 6}
"""How many statistics run over values that differ from one removed index to the next, which nothing makes up for."""

SPEC = "prune-channels{ratio=0.5,importance=random,compensate=exact}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the libraries warn of is theirs
@pytest.mark.parametrize("entry", CHOSEN)
def test_every_statistic_counts_what_was_removed(entry: Entry) -> None:
    program = graphopt.capture(*entry.build())
    result = graphopt.Pipeline(SPEC).run(program, graphopt.PassContext(verify=False, seed=0))
    made_up = remedies(graphopt.DependencyGraph(program), result.plan.kept, "exact")
    assert made_up.touched - len(made_up.actions) == STAY.get(f"{entry.library}/{entry.name}", 0)
    graphopt.verify(program, result)
