import pytest

from graphopt.demo.sentences import Sentences, load_sentences, split_sentences


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return load_sentences(200, 50, seed=1)


def test_plain_sentences_are_found_across_lines() -> None:
    text = "This is a sentence\nover two lines here. Short one. And one more of these plain sentences!\n\nTitle\n====="
    assert split_sentences(text) == [
        "This is a sentence over two lines here.",
        "And one more of these plain sentences!",
    ]


@pytest.mark.parametrize(
    "text",
    [
        ">>> value = call(1) and some more words.",
        "it starts small and goes on like this.",
        "A table | with | bars | in the middle of it.",
        "Word " * 41 + "end.",
        "It never comes to an end of any kind",
    ],
)
def test_what_is_no_plain_sentence_is_left_out(text: str) -> None:
    assert split_sentences(text) == []


def test_parts_share_no_sentence(sentences: Sentences) -> None:
    assert (len(sentences.train), len(sentences.held_out)) == (200, 50)
    assert len({*sentences.train, *sentences.held_out}) == 250


def test_choice_depends_on_the_seed_alone(sentences: Sentences) -> None:
    assert load_sentences(200, 50, seed=1) == sentences
    assert load_sentences(200, 50, seed=2) != sentences
