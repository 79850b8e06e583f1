"""The tables of comparison: our ticks lead to tests that hold them, and every cell is what was seen in a run."""

import json
import re
from typing import Any

import pytest

from tests.docs.pages import ROOT

RESULTS = ROOT / "benchmarks" / "peers.json"
"""What ``benchmarks/peers.py`` has seen each library do."""

SIGNS = {"yes": "✓", "partly": "(✓)", "no": "✗", "documented": "doc.", "unnamed": "-"}
TITLES = {
    "this package": "lightning_finetune",
    "fastai": "fastai",
    "Lightning": "lightning",
    "finetuning-scheduler": "finetuning_scheduler",
    "AutoGluon": "autogluon",
}


PLAIN = {
    "Trains the head, then all layers, each time with its own schedule, in one run": "One cycle for each phase of "
    "freezing, in one run",
    "Gives early layers smaller learning rates, in any model": "Rates spread over layer groups, in any model, from the "
    "first step",
    "Searches a learning rate without changing the run": "Range test leaves no trace",
    "Trains on small images first, then on larger ones": "Images grow during the run",
    "Shows the whole run before it starts": "The whole run is shown before it starts",
    "Says in words what went wrong": "A run is diagnosed in words",
    "Keeps several GPUs in step when it unfreezes layers": "Replicas stay equal through an unfreezing under DDP",
    "Goes on after a crash within an epoch, with the same result to the bit": "Killed within an epoch, resumes to the "
    "same bits",
    "Trains on text and tables": "Text and tables as data",
}
"""What the README calls rows of the long table."""


def table(page: str = "docs/comparison.md") -> dict[str, dict[str, str]]:
    """Cells by row and library, as they stand on a page."""
    lines = (ROOT / page).read_text().partition("# Compared with others")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = rows
    return {name: dict(zip([TITLES[title] for title in head[1:]], cells, strict=True)) for name, *cells in body}


def results() -> list[dict[str, Any]]:
    """What was seen, once every cell has been."""
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    cells = [cell for row in rows for cell in row["libraries"].values()]
    if not cells or any(cell["result"] not in SIGNS for cell in cells):
        pytest.skip("benchmarks/peers.py has not looked at every cell yet; the README shows our own column")
    return rows


def sign(cell: str) -> str:
    return re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cell)


def linked(cell: str) -> str | None:
    found = re.search(r"\]\((.*?)\)", cell)
    return found[1].removeprefix("../") if found else None


def test_every_tick_of_ours_leads_to_a_test_or_a_benchmark():
    ours = [cells["lightning_finetune"] for cells in table().values()]
    ticks = [cell for cell in ours if "✓" in cell]
    assert len(ticks) > 10
    assert [cell for cell in ticks if not (linked(cell) or "").startswith(("tests/", "benchmarks/"))] == []


def test_every_cell_is_what_was_seen_by_running_it():
    seen = {row["name"]: {name: SIGNS[cell["result"]] for name, cell in row["libraries"].items()} for row in results()}
    assert {name: {key: sign(cell) for key, cell in cells.items()} for name, cells in table().items()} == seen


def test_what_was_only_read_is_marked():
    """Of AutoGluon nothing was run; and what this package has not is in the table too."""
    cells = table()
    assert {row["autogluon"] for row in cells.values()} == {"doc.", "-"}
    assert sum(row["lightning_finetune"] == "✗" for row in cells.values()) >= 4


def test_our_ticks_lead_to_the_tests_that_hold_them():
    for row in results():
        tests = [test.partition("::") for test in row["libraries"]["lightning_finetune"]["tests"]]
        for file, _, name in tests:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"
        link = linked(table()[row["name"]]["lightning_finetune"])
        assert link is None or link.startswith("benchmarks/") or link in {file for file, _, _ in tests}


def test_the_readme_says_the_same_in_plain_words():
    long, short = table(), table("README.md")
    assert {PLAIN[name]: cells for name, cells in short.items()} == {
        name: {key: sign(cell) for key, cell in long[name].items() if key != "autogluon"} for name in PLAIN.values()
    }
