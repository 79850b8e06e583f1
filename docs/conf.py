"""Configuration of Sphinx, which `make docs` runs."""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

from lightning_finetune import __version__

project = "lightning_finetune"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lightning-finetune"
html_show_copyright = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_use_ivar = True

# A name of this package that leads nowhere fails the build; those of others could be looked up only by a network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!lightning_finetune\.).*")]

_LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")
_TEXTS = {
    "index": "README.md",
    "examples": "examples/README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}
"""Pages that begin with a file of the project, whose links lead from where that file lies."""


def _begin_with_text(app: Sphinx, page: str, source: list[str]) -> None:
    if page in _TEXTS:
        path = app.srcdir.parent / _TEXTS[page]
        source[0] = _LINK.sub(lambda link: f"]({_from_docs(page, link[1])})", path.read_text("utf-8")) + source[0]


def _from_docs(page: str, link: str) -> str:
    path = os.path.normpath(Path(_TEXTS[page]).parent / link)
    for other, text in _TEXTS.items():
        if path == text:
            return f"{other}.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _begin_with_text)
