"""Calls beside nodes."""

from graphopt.restoring.aligning import Event, align


def events(*pairs: tuple[str, str]) -> list[Event]:
    return [Event((token, token[0]), name) for token, name in pairs]


def test_equal_counts_go_together_in_order() -> None:
    calls = events(("a1", "view"), ("b1", "linear"), ("a1", "view"))
    nodes = events(("b1", "linear"), ("a1", "reshape"), ("a1", "reshape"))
    assert align(calls, nodes) == {0: 1, 1: 0, 2: 2}


def test_a_call_that_left_no_node_is_told_by_its_name() -> None:
    calls = events(("a1", "transpose"), ("a1", "dropout"), ("a1", "mul"))
    nodes = events(("a1", "transpose"), ("a1", "mul"))
    assert align(calls, nodes) == {0: 0, 2: 1}


def test_of_several_nodes_the_last_gives_what_the_call_returns() -> None:
    calls = events(("a1", "transpose"), ("a1", "attention"))
    nodes = events(("a1", "transpose"), ("a1", "linear"), ("a1", "softmax"), ("a1", "reshape"))
    assert align(calls, nodes) == {0: 0, 1: 3}


def test_the_second_token_serves_what_the_first_does_not_find() -> None:
    calls = events(("a1", "conv2d"), ("b1", "relu"))
    nodes = events(("a2", "conv2d"), ("b1", "relu"))
    assert align(calls, nodes) == {0: 0, 1: 1}


def test_nothing_beside_nothing() -> None:
    assert align([], []) == {}
