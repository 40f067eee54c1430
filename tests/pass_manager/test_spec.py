import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import SpecError
from graphopt.pass_manager.spec import parse
from graphopt.pass_manager.syntax import Atom, Items, Option, PassSpec, Text, Value

names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]*", fullmatch=True)
keys = st.from_regex(r"[A-Za-z][A-Za-z0-9_]*", fullmatch=True)
atoms = st.from_regex(r'[^,{}\[\]"=\s]+', fullmatch=True).map(Atom)
values: st.SearchStrategy[Value] = st.recursive(
    atoms | st.text().map(Text), lambda inner: st.lists(inner, max_size=3).map(lambda items: Items(tuple(items)))
)
options = st.builds(Option, keys, st.none() | values)
passes = st.builds(PassSpec, names, st.lists(options, max_size=3).map(tuple))
pipelines = st.lists(passes, min_size=1, max_size=3).map(tuple)


def written(pipeline: tuple[PassSpec, ...]) -> str:
    return ",".join(map(str, pipeline))


@given(pipelines)
def test_round_trip(pipeline: tuple[PassSpec, ...]) -> None:
    assert parse(written(pipeline)) == pipeline


@given(pipelines)
def test_positions_point_at_what_was_read(pipeline: tuple[PassSpec, ...]) -> None:
    text = written(pipeline)
    for spec in parse(text):
        assert text.startswith(spec.name, spec.position)
        for option in spec.options:
            assert text.startswith(str(option), option.position)
            assert option.value is None or text.startswith(str(option.value), option.value.position)


@given(pipelines, st.sampled_from([" ", "\n", "\t  "]))
def test_space_between_tokens_means_nothing(pipeline: tuple[PassSpec, ...], space: str) -> None:
    def spaced(value: Value) -> str:
        if isinstance(value, Items):
            return f"[{space}{f'{space},{space}'.join(map(spaced, value.items))}{space}]"
        return str(value)

    def spaced_option(option: Option) -> str:
        return option.key if option.value is None else f"{option.key}{space}={space}{spaced(option.value)}"

    def spaced_pass(spec: PassSpec) -> str:
        inside = f"{space},{space}".join(map(spaced_option, spec.options))
        return f"{space}{spec.name}{space}{{{space}{inside}{space}}}{space}"

    assert parse(",".join(map(spaced_pass, pipeline))) == pipeline


@given(st.text(alphabet=string.ascii_letters + string.digits + ',{}[]"=\\ -_.', max_size=30))
def test_any_text_is_read_or_refused_with_a_position(text: str) -> None:
    fault = fault_of(text)
    if fault is None:
        read = parse(text)
        assert parse(written(read)) == read
        return
    assert fault.text == text
    assert fault.position is not None
    assert 0 <= fault.position <= len(text)


def fault_of(text: str) -> SpecError | None:
    try:
        parse(text)
    except SpecError as error:
        return error
    return None


def test_example_of_the_documentation() -> None:
    text = "prune-channels{ratio=0.5,importance=taylor,round_to=8},insert-cache{interval=3},partition{devices=2}"
    read = parse(text)
    assert [spec.name for spec in read] == ["prune-channels", "insert-cache", "partition"]
    assert read[0].options[1] == Option("importance", Atom("taylor"))
    assert written(read) == text


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "found the end of the text, wanted the name of a pass"),
        (" ", 1, "found the end of the text, wanted the name of a pass"),
        ("a,", 2, "found the end of the text, wanted the name of a pass"),
        (",a", 0, "found ',', wanted the name of a pass"),
        ("3d", 0, "found '3', wanted the name of a pass"),
        ("a_b", 1, "found '_' in 'a_b', wanted letters, digits and '-' in the name of a pass"),
        ("a b", 2, "found 'b', wanted ',' and another pass, or the end"),
        ("a}", 1, "found '}', wanted ',' and another pass, or the end"),
        ("a{", 2, "found the end of the text, wanted the name of an option"),
        ("a{=1}", 2, "found '=', wanted the name of an option"),
        ("a{b-c=1}", 3, "found '-' in 'b-c', wanted letters, digits and '_' in the name of an option"),
        ("a{b=}", 4, "found '}', wanted a value: a word, a list in [ ] or text in quotes"),
        ("a{b=1,}", 6, "found '}', wanted the name of an option"),
        ("a{b=1", 5, "found the end of the text, wanted ',' and another option, or '}'"),
        ("a{b=c=d}", 5, "found '=', wanted ',' and another option, or '}'"),
        ("a{b=[1", 6, "found the end of the text, wanted ',' and another value, or ']'"),
        ("a{b=[1,]}", 7, "found ']', wanted a value"),
        ('a{b="c}', 4, "found an opening quote, wanted a closing quote after it"),
        ('a{b="c\\\\\\d"}', 8, "found a lone backslash, wanted two of them, or one before a quote"),
    ],
)
def test_caret_and_message(text: str, position: int, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert caught.value.position == position
    assert caught.value.message.startswith(message)


def test_rendered_error() -> None:
    with pytest.raises(SpecError) as caught:
        parse("prune-channels{ratio:0.5}")
    assert str(caught.value) == (
        "found ':' in 'ratio:0.5', wanted letters, digits and '_' in the name of an option\n"
        "  prune-channels{ratio:0.5}\n"
        "                      ^"
    )
