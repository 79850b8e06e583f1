"""The site builds, without a warning and without a network."""

import re
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS, PAGES

pytest.importorskip("sphinx")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", DOCS, tmp_path]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in PAGES[1:]:
        html = (tmp_path / page.relative_to(DOCS)).with_suffix(".html").read_text()
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', html)
        assert [address for address in loaded if "//" in address] == [], page.name
    styles = "".join(path.read_text() for path in (tmp_path / "_static").rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)", styles) == []
