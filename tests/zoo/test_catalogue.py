"""The catalogue itself: entries are repeatable, leave the global random state alone and depend on their inputs."""

import pytest
import torch
from torch.utils import _pytree as pytree
from zoo.catalogue import Built, Entry, entries

PEERS = entries("peer_failures")


def _outputs(built: Built) -> list[torch.Tensor]:
    model, args, kwargs = built
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def test_names_are_unique() -> None:
    names = [entry.name for entry in PEERS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("entry", PEERS, ids=lambda entry: entry.name)
def test_build_is_repeatable(entry: Entry) -> None:
    state = torch.get_rng_state()
    first = _outputs(entry.build())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    second = _outputs(entry.build())
    assert len(first) == len(second) > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("entry", PEERS, ids=lambda entry: entry.name)
def test_output_depends_on_every_matrix(entry: Entry) -> None:
    model, args, kwargs = entry.build()
    outputs = [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
    total = torch.stack([(leaf * torch.randn_like(leaf)).sum() for leaf in outputs]).sum()
    torch.autograd.backward(total)
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and (parameter.grad is None or not float(parameter.grad.abs().max()) > 1e-6)
    ]
    assert dead == []
