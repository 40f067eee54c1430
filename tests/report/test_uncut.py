import io

from rich.console import Console, Group
from rich.text import Text

from graphopt.report.tables import make_table
from graphopt.report.uncut import show


def shown(columns: int) -> list[str]:
    table = make_table("groups", ("group", "reason"), ("MACs/unit", "half: parameters"))
    for place in range(3):
        reason = "a reason of many words that may well be folded " * 3
        table.add_row(f"blocks.{place}.qkv.weight:0", reason, "1.23M", "28.7k (49.4 %)")
    out = io.StringIO()
    show(Console(file=out, width=columns), Group(Text("a line"), table))
    return out.getvalue().splitlines()


def test_names_and_figures_stay_whole_on_a_narrow_terminal() -> None:
    lines = shown(60)
    text = "\n".join(lines)
    for whole in ("a line", "half: parameters", "MACs/unit", "blocks.2.qkv.weight:0", "28.7k (49.4 %)", "1.23M"):
        assert whole in text
    assert "…" not in text
    assert 60 < max(map(len, lines)) < 120


def test_a_wide_terminal_is_used() -> None:
    lines = shown(300)
    assert sum("folded" in line for line in lines) == 3
    assert max(len(line.rstrip()) for line in lines) > 120
