"""The HTML report, read again: its pictures, for whoever shows them elsewhere."""

from html.parser import HTMLParser


def pictures_in(page: str) -> list[tuple[str, str, str]]:
    """Section, description and data address of every picture of a page that `render_html` made, in its order."""
    reader = _PictureReader()
    reader.feed(page)
    return reader.found


class _PictureReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.section, self.in_title = "", False
        self.found: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.in_title = tag == "h2"
        if tag == "img":
            self.found.append((self.section, given.get("alt") or "", given.get("src") or ""))

    def handle_endtag(self, tag: str) -> None:
        self.in_title = self.in_title and tag != "h2"

    def handle_data(self, data: str) -> None:
        if self.in_title:
            self.section = data
