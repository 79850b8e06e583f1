"""A working directory in which what the documentation says can be done."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_finetune.cli import command_line
from tests.docs.pages import ROOT

COLOURS = {"red": 0, "green": 1, "blue": 2}


def save_image(path: Path, channel: int, draw: np.random.Generator) -> None:
    pixels = draw.integers(0, 120, (64, 72, 3), dtype=np.uint8)
    pixels[..., channel] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, draw: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 2, (64, 72), dtype=np.uint8)).save(path)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in folders, in a table and with masks; a finished run of the command on them, and its files."""
    place, draw = tmp_path_factory.mktemp("docs"), np.random.default_rng(0)
    for split, count in (("train", 2), ("valid", 1)):
        for name, channel in COLOURS.items():
            for number in range(count):
                day = 7 if split == "valid" else number
                save_image(place / "FOLDER" / split / name / f"day{day}_{number}.jpg", channel, draw)
        for number in range(count):
            save_image(place / "MASKS" / split / "images" / f"{number}.jpg", number % 3, draw)
            save_mask(place / "MASKS" / split / "masks" / f"{number}.png", draw)
    (place / "MASKS" / "codes.txt").write_text("ground\nthing\n")
    rows = [f"{number}.jpg,red {list(COLOURS)[number % 3]},{int(number > 5)}" for number in range(9)]
    for number in range(9):
        save_image(place / "TABLE" / "images" / f"{number}.jpg", number % 3, draw)
    (place / "TABLE" / "labels.csv").write_text("\n".join(["image,tags,is_valid", *rows]))
    for name in ("photo", "a", "b"):
        save_image(place / f"{name}.jpg", 0, draw)
    shutil.copytree(ROOT / "examples", place / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    small = ["--data.size", "64", "--data.num_workers", "0", "--model.model", "test_efficientnet"]
    short = ["--model.weights", "false", "--fine_tune.head_epochs", "1", "--fine_tune.full_epochs", "1"]
    short += ["--trainer.log_every_n_steps", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["lightning-finetune", "fit", "--data.root", "FOLDER", *small, *short])
        command_line.main()
    run = place / "lightning_logs" / "version_0"
    shutil.copy(run / "checkpoints" / "best.ckpt", place)
    shutil.copy(run / "config.yaml", place)
    return place


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test runs."""
    place = shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(place)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["lightning-finetune"])  # else Lightning warns of pytest's arguments
    return place
