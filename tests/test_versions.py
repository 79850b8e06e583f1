"""The lowest versions that ``make test-lowest`` installs are the bounds of the package."""

import itertools
import re
from pathlib import Path

import pytest

APART = ("all", "export", "streams")  # a later torch than the rest; tried by `make test-modules` alone
ROOT = Path(__file__).parents[1]


def bounds() -> dict[str, str]:
    """The lowest version of each package that pyproject.toml asks for."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name not in APART for line in lines]
    found: dict[str, str] = {}
    for line in [*project["dependencies"], *extras]:
        name, low = re.match(r"([\w.-]+)(?:\[[\w,]+\])?[^>=]*>=([\w.]+)", line).groups()
        found.setdefault(name, low)
    return found


def test_the_list_of_lowest_versions_is_that_of_the_bounds() -> None:
    lines = (ROOT / "tests/lowest.txt").read_text().splitlines()
    listed = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert listed == bounds()


def test_every_bound_says_why() -> None:
    """A comment on its line or the one before."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r'\s*"[\w.\[\]-]+>=', line) and "build>=" not in line:
            reasoned = "#" in line or before.strip().startswith(("#", '"onnx'))  # one reason for all of an export
            assert reasoned or lines.index(line) > lines.index("[dependency-groups]"), line
