"""Configuration of Sphinx, which `make docs` runs."""

import re

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

_HOMES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def _begin_with_readme(app: Sphinx, page: str, source: list[str]) -> None:
    """The first page is the README, with its links as they lead from here."""
    if page == "index":
        readme = (app.srcdir.parent / "README.md").read_text(encoding="utf-8")
        source[0] = re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda link: f"]({_from_docs(link[1])})", readme) + source[0]


def _from_docs(link: str) -> str:
    return link.removeprefix("docs/") if link.startswith("docs/") else _HOMES.get(link, f"../{link}")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _begin_with_readme)
