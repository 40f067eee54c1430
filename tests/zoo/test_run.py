"""The table of the zoo: how it is asked for, and what a row holds."""

from torch import nn
from zoo import run
from zoo.catalogue import Built, Entry, entries, entry, normal, tensors
from zoo.registry import NotBuiltError
from zoo.row import Row, try_entry
from zoo.table import page


def test_the_page_says_which_command_wrote_it() -> None:
    assert run._options([]).command == "make zoo"
    options = run._options(["--by-hand", "--only", "timm/*", "--minutes", "5"])
    assert options.command == 'make zoo ARGS="--only timm/* --by-hand --minutes 5"'


def test_a_row_of_a_model_that_passes_and_of_one_that_cannot() -> None:
    found = {known.name: known for known in entries("peer_failures")}
    stuck = entry("one_layer", "peer_failures", lambda: nn.Linear(4, 3), tensors(normal(2, 4)))
    rows = [try_entry(tried, onnx=False, alone=True) for tried in (found["patch_merging"], stuck)]
    assert rows[0].failure == ""
    assert rows[0].own_class == ""
    assert rows[0].left < rows[0].parameters / 2
    assert rows[0].alone
    assert "no axis of Linear may be pruned" in rows[1].failure
    text = page(rows, "make zoo", 60)
    assert "1 of 2 models pass" in text
    assert f"{rows[0].alone} axes of 1 models also by themselves" in text
    assert "| one_layer | - |" in text


def test_rows_of_an_earlier_run_are_kept_where_a_later_one_does_not_come_to_them() -> None:
    earlier = [Row("one", "timm", "broken"), Row("two", "timm", "broken"), Row("three", "timm")]
    later = [Row("one", "timm"), Row("two", "timm", f"{run.NOT_TRIED} 3 minutes"), Row("four", "timm")]
    rows, kept = run.onto(earlier, later)
    assert {row.name: row.failure for row in rows} == {"one": "", "two": "broken", "three": "", "four": ""}
    assert kept == 2
    assert "2 of 4 rows are of earlier runs" in page(rows, "make zoo", 60, kept=kept)


def test_a_family_that_no_rule_builds_is_shown_and_counted_apart() -> None:
    def build() -> Built:
        raise NotBuiltError("nothing to try")

    row = try_entry(Entry("auto:rare", "timm", build), onnx=False)
    assert row.failure == "not built: NotBuiltError: nothing to try"
    text = page([row], "make zoo", 60)
    assert "0 of 0 models pass" in text
    assert "1 more families of the registries" in text
    assert "| auto:rare | - |" in text
