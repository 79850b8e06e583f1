"""The pages of the documentation, and what is in them."""

import re
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SHELLS = {DOCS / name for name in ("index.md", "changelog.md", "contributing.md", "examples.md")}
"""Pages of the site alone: they hold the README and the files of the same names."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def without_code(page: Path) -> str:
    """The text of a page, in which what looks like a link is one."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"(`+).*?\1", "", text)


def links(page: Path) -> list[str]:
    """Where links and pictures lead, and what a table of contents lists."""
    listed = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)*(.*?)^```", page.read_text(), flags=re.M | re.S)
    entries = [f"{entry}.md" for text in listed for entry in text.split()]
    return [*re.findall(r"\]\(([^)\s]+)\)", without_code(page)), *entries]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub and Sphinx name them in a link."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return {slug(title) for title in re.findall(r"^#+ (.+)$", text, flags=re.M)}


def slug(title: str) -> str:
    kept = [c for c in title.lower() if c in "-_ " or unicodedata.category(c)[0] in "LN"]
    return "".join(kept).strip().replace(" ", "-")
