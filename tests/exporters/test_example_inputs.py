import json
import math
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from graphopt.errors import ExportError, PlanError
from graphopt.exporters.example_inputs import STRUCTURE, read_inputs, read_whole, write_inputs

Pair = namedtuple("Pair", "left right")  # noqa: PYI024 - an input of a kind that is refused

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.complex_numbers(allow_nan=False),
    st.sampled_from([torch.float16, torch.bool, torch.device("cpu"), torch.device("cuda:1"), torch.Size([2, 3])]),
    st.lists(st.integers(-9, 9), max_size=4).map(torch.tensor),
)
keys = st.one_of(st.text(max_size=3), st.integers(), st.booleans(), st.none())
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=10,
)


def same(left: Any, right: Any) -> bool:
    """Tell whether two nested values are equal in kind, order and value."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@hypothesis.given(args=st.lists(nested, max_size=3).map(tuple), kwargs=st.dictionaries(st.text(), nested, max_size=3))
def test_inputs_come_back(tmp_path_factory: pytest.TempPathFactory, args: Any, kwargs: Any) -> None:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, args, kwargs)
    assert same(read_inputs(folder), (args, kwargs))


def test_what_a_model_takes_comes_back(tmp_path: Path) -> None:
    shared = torch.randn(2, 3)
    args = (shared, {"mask": torch.tensor([True, False]), "states": (None, [shared, 1.5])})
    write_inputs(tmp_path, args, {"scale": 2, "mode": "nearest", "x": torch.randn(3, 2).T})
    found, kwargs = read_inputs(tmp_path)
    assert same(found, args)
    assert found[0] is found[1]["states"][1][0]
    assert kwargs["x"].T.is_contiguous()  # the order in memory is kept


def test_the_files_are_plain(tmp_path: Path) -> None:
    write_inputs(tmp_path, (torch.ones(2), None), {"flag": True})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.json", "inputs.safetensors"]
    assert json.loads((tmp_path / "inputs.json").read_text()) == {
        "version": 1,
        "args": {"type": "tuple", "items": [{"type": "tensor", "name": "input_0"}, {"type": "value", "value": None}]},
        "kwargs": {
            "type": "dict",
            "items": [[{"type": "value", "value": "flag"}, {"type": "value", "value": True}]],
        },
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks(tmp_path: Path, value: float) -> None:
    write_inputs(tmp_path, (value,), {})
    assert repr(read_inputs(tmp_path)[0][0]) == repr(value)
    assert "NaN" not in (tmp_path / "inputs.json").read_text()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"cache": [object()]}, r"args\[0\]\['cache'\]\[0\] is a builtins\.object"),
        (Pair(1, 2), r"args\[0\] is a .*Pair"),
        ({object: 3}, r"the keys of args\[0\]"),
        (torch.ones(1, device="meta"), "'input_0' has no values"),
    ],
)
def test_what_needs_pickle_is_refused_by_place(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        write_inputs(tmp_path, (value,), {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "args": 3, "kwargs": 4}',
        '{"version": 2, "args": {}, "kwargs": {}}',
        '{"version": 1, "args": {"type": "import", "value": "os"}, "kwargs": {"type": "dict", "items": []}}',
        '{"version": 1, "args": {"type": "tensor", "name": "no"}, "kwargs": {"type": "dict", "items": []}}',
        '{"version": 1, "args": {"type": "dtype", "value": "load"}, "kwargs": {"type": "dict", "items": []}}',
        '{"version": 1, "args": {"type": "device", "value": "moon"}, "kwargs": {"type": "dict", "items": []}}',
        '{"version": 1, "args": {"type": "list", "items": []}, "kwargs": {"type": "dict", "items": []}}',
        '{"version": 1, "args": {"type": "tuple", "items": []}, "kwargs": {"type": "dict", "items": [[[], 1]]}}',
    ],
)
def test_a_damaged_structure_is_named(tmp_path: Path, text: str) -> None:
    write_inputs(tmp_path, (torch.ones(2),), {})
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(PlanError, match=r"inputs\.json"):
        read_inputs(tmp_path)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    write_inputs(tmp_path, (torch.ones(2),), {})
    (tmp_path / "inputs.safetensors").unlink()
    with pytest.raises(PlanError, match=r"inputs\.safetensors"):
        read_inputs(tmp_path)


def test_modules_that_were_kept_whole_come_back(tmp_path: Path) -> None:
    write_inputs(tmp_path, (torch.ones(2),), {})
    assert read_whole(tmp_path) == ()
    assert "whole" not in (tmp_path / STRUCTURE).read_text()
    write_inputs(tmp_path, (torch.ones(2),), {}, ["layers.0.mlp", "gate"])
    assert read_whole(tmp_path) == ("layers.0.mlp", "gate")
    assert torch.equal(read_inputs(tmp_path)[0][0], torch.ones(2))


@pytest.mark.parametrize("text", ['{"whole": "gate"}', '{"whole": [1]}', "[]"])
def test_damaged_names_of_modules_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / STRUCTURE).write_text(text)
    with pytest.raises(PlanError, match="is damaged: no list of modules; save the result again"):
        read_whole(tmp_path)
