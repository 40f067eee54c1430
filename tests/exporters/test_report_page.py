from html.parser import HTMLParser

from exporters.results import pruned_result

from graphopt.exporters.report_page import report_page
from graphopt.pass_manager.result import Report


class Cells(HTMLParser):
    """Collects the tags that are opened and the text between them, and checks that they are closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def read(page: str) -> Cells:
    cells = Cells()
    cells.feed(page)
    assert cells.open == []
    return cells


def test_the_page_shows_figures_axes_and_remarks() -> None:
    result = pruned_result()
    cells = read(report_page(result.report, result.plan, result.program))
    text = [part for part in cells.text if part]
    assert "graphopt: Small" in text
    assert "244 parameters and buffers, 976 bytes." in text
    place = text.index("flops")
    assert text[place : place + 4] == ["flops", "1,024", "768", "0.750"]
    place = text.index("gain")
    assert text[place : place + 3] == ["gain", "nan", "inf"]
    place = text.index("first.weight:0")
    assert text[place + 2 : place + 4] == ["12", "16"]
    assert {"<x> & co", "one", "two"} <= set(text)
    assert cells.tags & {"script", "link", "img"} == set()


def test_a_result_of_no_pass_has_a_page() -> None:
    result = pruned_result()
    cells = read(report_page(Report(passes=()), result.plan, result.program))
    assert "h3" not in cells.tags
