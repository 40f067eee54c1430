"""The table of the zoo: how it is asked for, and what a row holds."""

from zoo import run
from zoo.catalogue import entries
from zoo.row import try_entry
from zoo.table import page


def test_the_page_says_which_command_wrote_it() -> None:
    assert run._options([]).command == "make zoo"
    options = run._options(["--by-hand", "--only", "timm/*", "--minutes", "5"])
    assert options.command == 'make zoo ARGS="--only timm/* --by-hand --minutes 5"'


def test_a_row_of_a_model_that_passes_and_of_one_that_cannot() -> None:
    found = {entry.name: entry for entry in entries("peer_failures")}
    rows = [try_entry(found[name], onnx=False) for name in ("patch_merging", "nested_output")]
    assert rows[0].failure == ""
    assert rows[0].own_class == ""
    assert rows[0].left < rows[0].parameters / 2
    assert "no axis of NestedOutput may be pruned" in rows[1].failure
    text = page(rows, "make zoo", 60)
    assert "1 of 2 models pass" in text
    assert "| nested_output | - |" in text
