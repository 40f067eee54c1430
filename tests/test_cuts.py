"""Cuts: their text and JSON forms."""

import pytest

from graphopt.cuts import Cut
from graphopt.errors import PlanError, SpecError


@pytest.mark.parametrize(
    ("text", "cut", "kind"),
    [("add_20", Cut("add_20"), "value"), ("add_3:add_20", Cut("add_20", "add_3"), "residual")],
)
def test_text_and_json_forms_give_the_cut_again(text: str, cut: Cut, kind: str) -> None:
    assert Cut.parse(text) == cut
    assert str(cut) == text
    assert cut.kind == kind
    assert Cut.from_dict(cut.to_dict()) == cut


@pytest.mark.parametrize("text", ["", ":", "add:", ":add", "a:b:c"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"found the cut .*wanted a value such as add_20"):
        Cut.parse(text)


@pytest.mark.parametrize("data", [None, "add", {}, {"base": "add"}, {"value": 3}])
def test_other_json_is_refused(data: object) -> None:
    with pytest.raises(PlanError, match="found the cut"):
        Cut.from_dict(data)
