from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_manager.example_passes import Scale, Step

from graphopt.errors import SpecError
from graphopt.pass_manager import PassTable
from graphopt.pass_manager.reader import read_pipeline

TABLE = PassTable([(name, f"pass_manager.example_passes:{name.title()}") for name in ("scale", "step")])

numbers = st.floats(allow_nan=False)
scales = st.builds(
    Scale,
    ratio=st.floats(min_value=0, max_value=1, exclude_max=True),
    round_to=st.none() | st.integers(),
    importance=st.sampled_from(["l1", "taylor", "a b"]),
    ignore=st.lists(st.text(), max_size=3).map(tuple),
    widths=st.lists(st.integers(), max_size=3).map(tuple),
    deep=st.booleans(),
    label=st.text(),
    target=st.none() | st.integers() | numbers | st.text() | st.sampled_from(["1", "1.5", "inf", "none", "true"]),
    pairs=st.lists(st.tuples(st.text(), numbers), max_size=2).map(tuple),
)
steps = st.builds(Step, label=st.text(), burns=st.none() | st.integers())


@given(st.lists(scales | steps, min_size=1, max_size=3))
def test_passes_round_trip_through_text(passes: list[Scale | Step]) -> None:
    text = ",".join(map(str, passes))
    read = read_pipeline(text, TABLE)
    assert read == tuple(passes)
    assert ",".join(map(str, read)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scale", Scale()),
        ("scale{}", Scale()),
        ("scale{deep}", Scale(deep=True)),
        ("scale{deep=false}", Scale()),
        ("scale{ratio=0}", Scale(ratio=0.0)),
        ("scale{target=1}", Scale(target=1)),
        ('scale{target="1"}', Scale(target="1")),
        ("scale{target=1e3}", Scale(target=1000.0)),
        ("scale{ignore=[conv1, layer1.0.conv2]}", Scale(ignore=("conv1", "layer1.0.conv2"))),
        ('scale{importance="a b"}', Scale(importance="a b")),
    ],
)
def test_text_makes_the_pass(text: str, expected: Scale) -> None:
    assert read_pipeline(text, TABLE) == (expected,)


def test_type_of_a_union_is_kept() -> None:
    targets: list[Any] = [
        pass_.target for pass_ in read_pipeline("scale{target=1},scale{target=1.0}", TABLE) if isinstance(pass_, Scale)
    ]
    assert [type(target) for target in targets] == [int, float]


@pytest.mark.parametrize(
    ("text", "caret", "message"),
    [
        ("scale,spet{label=a}", "spet", "found no pass called 'spet'; did you mean step?"),
        ("scale{ratoi=1}", "ratoi", "scale has no option 'ratoi'; did you mean ratio? (options: ratio, round_to, "),
        ("scale{zzz}", "zzz", "scale has no option 'zzz'; known are deep, ignore, "),
        ("scale{ratio=0.1,ratio=0.2}", "ratio=0.2", "scale: found option ratio twice, wanted it once"),
        ("scale{ratio=half}", "half", "scale: option ratio: found half, wanted a number"),
        ("scale{ratio}", "ratio}", "scale: option ratio: found no value, wanted ratio=<a number>"),
        ("scale{label}", "label}", "scale: option label: found no value, wanted label=<text>"),
        ("scale{widths=[1,a]}", "a]", "scale: option widths: found a, wanted an integer"),
        ("scale{deep,ratio= 1.5}", "1.5", "scale: option ratio: found 1.5, wanted a number from 0 up to 1"),
        ("scale,step{fails=no}", "step", "step: found no option label, which has no default"),
    ],
)
def test_caret_stands_under_the_fault(text: str, caret: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_pipeline(text, TABLE)
    assert caught.value.message.startswith(message)
    assert caught.value.position == text.rindex(caret)
    assert caught.value.text == text
