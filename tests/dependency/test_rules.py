"""Every coupling rule is proved on its own sample, and every one of its ties is needed."""

import pytest

from graphopt.dependency.registry import rule_table
from graphopt.proof.samples import prove_rule, unneeded_ties

PROVED = sorted(name for name, rule in rule_table().items() if rule.sample is not None)


@pytest.mark.parametrize("target", PROVED)
def test_mask_equals_slice_on_the_sample(target: str) -> None:
    proofs = prove_rule(rule_table()[target])
    assert proofs
    assert all(proof.holds for proof in proofs)


@pytest.mark.parametrize("target", PROVED)
def test_every_tie_is_needed(target: str) -> None:
    assert unneeded_ties(rule_table()[target]) == []
