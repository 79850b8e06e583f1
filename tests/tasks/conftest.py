"""Small real files that every task test can use."""

import lightning.pytorch as pl
import numpy as np
import pytest
from PIL import Image

from lightning_finetune.data import Augment, ImageData


def photo(kind: str, number: int, size: int = 72) -> Image.Image:
    """A red or blue photo with noise: easy to tell apart."""
    noise = np.random.default_rng(number).integers(0, 90, (size, size + 8, 3), dtype=np.uint8)
    noise[..., 0 if kind == "red" else 2] += 150
    return Image.fromarray(noise)


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
