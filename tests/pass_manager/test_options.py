from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_manager.example_passes import Scale, Step, Untyped

from graphopt.errors import RegistrationError, SpecError
from graphopt.pass_manager.kinds.annotations import kind_of
from graphopt.pass_manager.options import option_kinds
from graphopt.pass_manager.spec import parse

numbers = st.floats(allow_nan=False)
examples = {
    bool: st.booleans(),
    int: st.integers(),
    float: numbers,
    str: st.text(),
    int | None: st.none() | st.integers(),
    str | None: st.none() | st.text() | st.just("none"),
    bool | str: st.booleans() | st.text() | st.just("true"),
    int | float | str | None: st.none() | st.integers() | numbers | st.text() | st.sampled_from(["1", "inf", "none"]),
    Literal["a", "b c", 3] | None: st.sampled_from(["a", "b c", 3, None]),
    Literal["true"] | bool: st.sampled_from(["true", True, False]),
    tuple[int, ...]: st.lists(st.integers(), max_size=4).map(tuple),
    tuple[str, ...]: st.lists(st.text(), max_size=4).map(tuple),
    tuple[int, ...] | int: st.integers() | st.lists(st.integers(), max_size=4).map(tuple),
    tuple[str, float]: st.tuples(st.text(), numbers),
    tuple[tuple[str, int | None], ...]: st.lists(st.tuples(st.text(), st.none() | st.integers()), max_size=3).map(
        tuple
    ),
}


@pytest.mark.parametrize("annotation", list(examples), ids=str)
@given(data=st.data())
def test_what_is_written_is_read_back(annotation: Any, data: st.DataObject) -> None:
    value = data.draw(examples[annotation])
    kind = kind_of(annotation)
    assert kind.check(value) == value
    (spec,) = parse(f"p{{k={kind.write(value)}}}")
    written = spec.options[0].value
    assert written is not None
    read = kind.read(written)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "text", "wanted"),
    [
        (bool, "yes", "true or false"),
        (int, "0.5", "an integer"),
        (int, "9" * 5000, "an integer"),
        (int, "[1]", "an integer"),
        (float, "half", "a number"),
        (float, "nan", "a number"),
        (float, '"1"', "a number"),
        (str, "[a]", "text"),
        (int | None, "x", "none or an integer"),
        (Literal["a", "b c"], "c", 'one of a, "b c"'),
        (tuple[int, ...], "1", "a list in [ ] of which each is an integer"),
        (tuple[str, float], "[a]", "a list of 2: [text, a number]"),
    ],
)
def test_wrong_text_says_what_is_wanted(annotation: Any, text: str, wanted: str) -> None:
    (spec,) = parse(f"p{{k={text}}}")
    value = spec.options[0].value
    assert value is not None
    with pytest.raises(SpecError) as caught:
        kind_of(annotation).read(value)
    assert caught.value.message == f"found {text}, wanted {wanted}"
    assert caught.value.position == 4


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (bool, 1),
        (int, True),
        (int, 0.5),
        (float, "1"),
        (float, float("nan")),
        (float, 10**400),
        (str, 1),
        (type(None), 0),
        (tuple[int, ...], "12"),
        (tuple[int, ...], (1, "2")),
        (tuple[int, int], (1,)),
        (Literal[1], True),
        (int | None, "x"),
    ],
)
def test_wrong_value_is_refused(annotation: Any, value: object) -> None:
    with pytest.raises(SpecError, match="wanted"):
        kind_of(annotation).check(value)


def test_wrong_item_of_a_list_is_blamed_itself() -> None:
    (spec,) = parse("p{k=[1,2,x]}")
    value = spec.options[0].value
    assert value is not None
    with pytest.raises(SpecError) as caught:
        kind_of(tuple[int, ...] | None).read(value)
    assert (caught.value.position, caught.value.message) == (9, "found x, wanted an integer")


@pytest.mark.parametrize("annotation", [dict[str, int], object, bytes, Literal[b"x"], list[int]])
def test_annotation_without_text_form(annotation: Any) -> None:
    with pytest.raises(RegistrationError, match="PassContext"):
        kind_of(annotation)


def test_option_without_text_form_is_named() -> None:
    with pytest.raises(RegistrationError) as caught:
        option_kinds(Untyped)
    assert caught.value.__notes__ == ["the option is weights of Untyped"]


def test_only_options_that_differ_are_printed_in_field_order() -> None:
    assert str(Scale()) == "scale"
    made = Scale(deep=True, widths=(3,), ratio=0.25, label="x y", target=None, pairs=(("a", 1.0),))
    assert str(made) == 'scale{ratio=0.25,widths=[3],deep,label="x y",target=none,pairs=[[a,1.0]]}'


def test_option_without_default_is_always_printed() -> None:
    assert str(Step(label="a")) == "step{label=a}"


def test_values_are_converted_where_nothing_is_lost() -> None:
    loose: dict[str, Any] = {"ratio": 0, "ignore": ["fc"], "pairs": [["a", 1]]}
    made = Scale(**loose)
    assert (made.ratio, made.ignore, made.pairs) == (0.0, ("fc",), (("a", 1.0),))
    assert type(made.ratio) is float
    assert hash(made) == hash(Scale(ratio=0.0, ignore=("fc",), pairs=(("a", 1.0),)))


def test_wrong_type_names_pass_and_option() -> None:
    loose: dict[str, Any] = {"ratio": "half"}
    with pytest.raises(SpecError) as caught:
        Scale(**loose)
    assert str(caught.value) == "scale: option ratio: found 'half', wanted a number"


def test_value_out_of_range_names_pass_and_option() -> None:
    with pytest.raises(SpecError) as caught:
        Scale(ratio=1.5)
    assert str(caught.value) == "scale: option ratio: found 1.5, wanted a number from 0 up to 1, 1 left out"
    assert caught.value.option == "ratio"
