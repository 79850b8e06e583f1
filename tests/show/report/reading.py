"""Reading a page back as a browser would."""

from collections import defaultdict
from html.parser import HTMLParser

VOID = {"meta", "hr", "img", "br", "link", "input", "path"}
"""Elements that are never closed, and the SVG element that the page closes itself."""


class Page(HTMLParser):
    """What a page holds, by the ``id`` of its sections; what lies before them is in the section ``""``.

    Attributes:
        texts: All text of each section.
        tables: Rows of the tables of each section, cells as text.
        titles: What elements say when they are pointed at.
        sources: All addresses that something is loaded from or leads to.
        images: Attributes of the images of each section.
        paths: The ``d`` of the lines of each section.
        tags: Names of all elements.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = defaultdict(str)
        self.tables: dict[str, list[list[str]]] = defaultdict(list)
        self.titles: list[str] = []
        self.sources: list[str] = []
        self.images: dict[str, list[dict[str, str | None]]] = defaultdict(list)
        self.paths: dict[str, list[str]] = defaultdict(list)
        self.tags: list[str] = []
        self._open: list[str] = []
        self._section = ""
        self._cell = False
        self.feed(html)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in {tag}: {attrs}"
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = found["id"]
        if tag == "tr":
            self.tables[self._section].append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1].append("")
            self._cell = True
        if tag == "img":
            self.images[self._section].append(found)
        if tag == "path":
            self.paths[self._section].append(found["d"])
        self.titles += [found["title"]] if "title" in found else []
        self.sources += [found[name] for name in ("src", "href") if name in found]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.texts[self._section] += data
        if self._cell:
            self.tables[self._section][-1][-1] += data.strip()

    def rows(self, section: str) -> dict[str, list[str]]:
        """Rows of a section's tables by their first cell; of several the last."""
        return {row[0]: row[1:] for row in self.tables[section]}

    def says(self, words: str, section: str) -> bool:
        """Whether a section holds ``words``, however they are broken into lines."""
        return words in " ".join(self.texts[section].split())
