"""Every block of code does what it says: Python runs, commands and configurations are taken by the command itself."""

import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from lightning_finetune.cli import front
from tests.docs.pages import PAGES, ROOT, blocks, name_of

QUICK = "docs/callbacks/fine-tune.md"
"""The one page that trains in the default tests; the others that train are slow."""

TRAINS = re.compile(r"\.fit\(|\bfine_tune\(")

DONE = {"plan", "show-batch", "diagnose", "interpret", "validate"}
"""Subcommands that are cheap enough to be carried out; of the others every word is parsed."""


def pages(language: str) -> list:
    """Pages with blocks of a language, as parameters."""
    found = [(page, "".join(blocks(page, language))) for page in PAGES]
    return [
        pytest.param(
            page, id=name_of(page), marks=[pytest.mark.slow] if TRAINS.search(code) and name_of(page) != QUICK else []
        )
        for page, code in found
        if code
    ]


@pytest.mark.filterwarnings("ignore:LRRangeTest. the rate stays as it is")  # of noise no rate can be told
@pytest.mark.parametrize("page", pages("python"))
def test_python_runs(page: Path, here: Path):
    """All blocks of a page, one after the other, as a reader would type them."""
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        for number, block in enumerate(blocks(page, "python")):
            exec(compile(block, f"{name_of(page)}, block {number}", "exec"), names)
            for file in re.findall(r"# lightning_logs/version_N/(\S+\.png)", block):
                assert list(here.glob(f"lightning_logs/version_*/{file}")), f"{file} is promised"
    finally:
        plt.close("all")


def lines(page: Path) -> Iterator[str]:
    for block in blocks(page, "bash"):
        yield from block.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("page", pages("bash"))
def test_commands_are_understood(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    for line in lines(page):
        words = shlex.split(line, comments=True)
        if words:
            CHECKS[words[0]](words[1:], monkeypatch)


def own_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Carried out where that is cheap, in this process alone, else parsed."""
    done = words[0] in DONE or (words[0] == "predict" and "--images" in words)
    if done and "--trainer.devices" in words:
        words[words.index("--trainer.devices") + 1] = "1"
    monkeypatch.setattr(sys, "argv", ["lightning-finetune", *words, *([] if done else ["--print_config"])])
    assert status() == 0, words


def status() -> object:
    """What the command ends with."""
    try:
        front.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def launched(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun starts in each process."""
    assert words[words.index("-m") + 1] == "lightning_finetune"
    own_command(words[words.index("-m") + 2 :], monkeypatch)


def pip(words: list[str], _: pytest.MonkeyPatch) -> None:
    extras = metadata("lightning-finetune").get_all("Provides-Extra")
    for word in words[1:]:
        name, _, extra = word.partition("[")
        assert name == "lightning-finetune"
        assert not extra or extra.rstrip("]") in extras


def make(words: list[str], _: pytest.MonkeyPatch) -> None:
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.M)


def path(words: list[str], _: pytest.MonkeyPatch) -> None:
    assert (ROOT / words[0]).exists()


def others(words: list[str], _: pytest.MonkeyPatch) -> None:
    """W&B's own command needs its server."""


CHECKS = {
    "lightning-finetune": own_command,
    "torchrun": launched,
    "pip": pip,
    "make": make,
    "python": path,
    "cd": path,
    "wandb": others,
}


@pytest.mark.parametrize("page", pages("yaml"))
def test_configurations_make_a_run(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    """Data, model and phases are made from them, and fit; nothing is trained."""
    for number, block in enumerate(blocks(page, "yaml")):
        (here / f"{number}.yaml").write_text(block)
        own_command(["plan", "--config", f"{number}.yaml"], monkeypatch)
