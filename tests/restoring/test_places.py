"""Integers in modules: found, tracked, replaced."""

import functools
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from torch import nn

from graphopt.restoring.places import assign, track
from graphopt.restoring.tracked import Place, TrackedInt


class Pair(NamedTuple):
    first: int
    second: int


class Closed(OrderedDict[str, Any]):
    """A configuration that refuses to be written, as diffusers' does."""

    def __setitem__(self, key: str, value: Any) -> None:
        if getattr(self, "_closed", False):
            raise TypeError("closed")
        super().__setitem__(key, value)

    def __setattr__(self, key: str, value: Any) -> None:
        if getattr(self, "_closed", False):
            raise TypeError("closed")
        super().__setattr__(key, value)


class Holder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.heads = 4
        self.flag = True
        self.pair = Pair(1, 2)
        self.sizes = [3, (5, 6)]
        self.made = functools.partial(int, base=8)


def attribute(module: str, *keys: object) -> Place:
    first, *rest = keys
    return Place(module, (("attribute", first), *(("item", key) for key in rest)))


def model(config: Any) -> nn.Module:
    return nn.Sequential(Holder(config), Holder(config))


def test_numbers_in_nested_holders_are_found() -> None:
    made = model(SimpleNamespace(width=32))
    found = track(made)
    width = Place("0", (("attribute", "config"), ("attribute", "width")))
    wanted = {
        attribute("0", "heads"): 4,
        attribute("0", "pair", 0): 1,
        attribute("0", "pair", 1): 2,
        attribute("0", "sizes", 0): 3,
        attribute("0", "sizes", 1, 0): 5,
        attribute("0", "sizes", 1, 1): 6,
        attribute("0", "made", "base"): 8,
        width: 32,
    }
    assert {place: number for place, number in found.items() if place.module == "0"} == wanted
    assert isinstance(made[0].config.width, TrackedInt)
    assert made[0].config.width.expression == width
    assert made[0].config is not made[1].config
    assert made[0].flag is True
    assert made[0].pair == Pair(1, 2)


def test_what_is_shared_stays_shared_where_all_agree() -> None:
    made = model(SimpleNamespace(width=32))
    path = (("attribute", "config"), ("attribute", "width"))
    assign(made, {Place("0", path): 16})
    assert made[0].config is made[1].config
    assert made[1].config.width == 16


def test_what_is_shared_is_parted_where_values_differ() -> None:
    config = SimpleNamespace(width=32)
    made = model(config)
    path = (("attribute", "config"), ("attribute", "width"))
    assign(made, {Place("0", path): 16, Place("1", path): 8})
    assert (made[0].config.width, made[1].config.width, config.width) == (16, 8, 32)


@pytest.mark.parametrize(
    ("place", "read"),
    [
        (attribute("0", "pair", 1), lambda module: module.pair.second),
        (attribute("0", "sizes", 1, 0), lambda module: module.sizes[1][0]),
        (attribute("0", "made", "base"), lambda module: module.made.keywords["base"]),
    ],
)
def test_numbers_in_tuples_and_partials_are_replaced(place: Place, read: Any) -> None:
    made = model(None)
    assign(made, {place: 9})
    assert read(made[0]) == 9
    assert read(made[1]) != 9


def test_a_configuration_that_refuses_is_written_all_the_same() -> None:
    config = Closed(width=32)
    object.__setattr__(config, "_closed", True)
    made = model(config)
    numbers = track(made)
    place = attribute("0", "config", "width")
    assert numbers[place] == 32
    assert config["width"] == 32
    plain = model(config)
    assign(plain, {place: 16})
    assert plain[1].config["width"] == 16
