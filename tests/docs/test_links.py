"""Links, anchors and pictures."""

import pytest
from PIL import Image

from tests.docs.pages import DOCS, PAGES, ROOT, SHELLS, anchors, links, name_of

LARGEST = 100_000
"""Bytes of a picture."""


def local(page):
    """File and anchor of each link that stays in the repository."""
    for link in links(page):
        if not link.startswith(("http:", "https:", "mailto:")):
            path, _, anchor = link.partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    assert [link for link, path, _ in local(page) if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_stay_in_the_repository(page):
    assert [link for link, path, _ in local(page) if ROOT not in path.parents] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_anchors_are_headings(page):
    wrong = [link for link, path, anchor in local(page) if anchor and anchor not in anchors(path)]
    assert wrong == []


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        pages = {path for page in new for _, path, _ in local(page) if path.suffix == ".md" and path.exists()}
        new = pages - reached
    assert {name_of(page) for page in set(PAGES) - reached - SHELLS} == set()


def test_pictures_are_small_and_shown():
    shown = {path for page in PAGES for _, path, _ in local(page)}
    pictures = sorted((DOCS / "pictures").glob("*"))
    assert [path.name for path in pictures if path not in shown] == []
    assert [path.name for path in pictures if path.stat().st_size > LARGEST] == []
    for path in pictures:
        with Image.open(path) as picture:
            assert max(picture.size) <= 1200, path.name


def test_every_callback_has_a_page():
    from lightning_finetune import callbacks

    titles = {page.read_text().partition("\n")[0] for page in (DOCS / "callbacks").glob("*.md")}
    assert titles == {f"# {name}" for name in callbacks.__all__}


def test_every_call_of_fastai_is_mapped():
    listed = (ROOT / "tests/docs/fastai_calls.txt").read_text().splitlines()
    calls = {name for line in listed if not line.startswith("#") for name in line.split()}
    text = (DOCS / "coming-from-fastai.md").read_text()
    code = " ".join(part for number, part in enumerate(text.split("`")) if number % 2)
    words = set("".join(c if c.isalnum() or c == "_" else " " for c in code).split())
    assert calls - words == set()


def test_the_pictures_can_be_made_again(tmp_path, monkeypatch):
    from docs import make_pictures

    monkeypatch.setattr(make_pictures, "PICTURES", tmp_path)
    make_pictures.recipe()
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.png"]
