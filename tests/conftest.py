"""What tests of several folders begin with."""

import sys
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
from PIL import Image

from lightning_finetune.data import Augment, ImageData
from tests.data.images import CLASSES, fill
from tests.tasks.photos import photo


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train|valid / red|green|blue / *.jpg``; read only."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("valid", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 120, (40, 48, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-finetune"])  # else Lightning warns of pytest's arguments
    return tmp_path


@pytest.fixture(scope="session")
def insects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` with 7, 6, 6 and ``valid`` with 4, 4, 3 images of three classes."""
    root = tmp_path_factory.mktemp("insects")
    for split, counts in (("train", (7, 6, 6)), ("valid", (4, 4, 3))):
        for k, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            fill(root / split / name, count, start=100 * k + (50 if split == "valid" else 0))
    return root


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """The folder of a real data set; the test is skipped where the shared data is absent."""

    def folder(name: str) -> Path:
        path = Path(__file__).parents[1] / "../shared/data" / name
        if not path.is_dir():
            pytest.skip(f"needs the data set ../shared/data/{name}")
        return path

    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """``train|valid / red|blue / *.jpg``."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 16), ("valid", 6)):
        for kind in ("red", "blue"):
            (root / split / kind).mkdir(parents=True)
            for number in range(count):
                photo(kind, number + 100 * (split == "valid")).save(root / split / kind / f"{number}.jpg")
    return root


@pytest.fixture
def data(folder):
    crops = Augment(do_flip=False, p_affine=0.0, max_lighting=0.0)  # and nothing else
    return ImageData.from_folder(folder, size=64, batch_size=8, num_workers=0, augment=crops)


@pytest.fixture
def trainer(tmp_path):
    """A trainer for ``epochs`` epochs that writes nothing on its own."""

    def make(epochs: int = 1, **options) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return pl.Trainer(
            **{
                **quiet,
                "enable_checkpointing": False,
                "accelerator": "cpu",
                "max_epochs": epochs,
                "default_root_dir": tmp_path,
                **options,
            }
        )

    return make
