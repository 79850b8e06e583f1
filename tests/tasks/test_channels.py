"""Images of one and of many channels, from their files to predictions."""

import lightning.pytorch as pl
import numpy as np
import pytest

from lightning_finetune import ImageClassifier, ImageData, UNetSegmenter, load
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """``train|valid / low|high / *.npy``: the last of five channels says which."""
    root = tmp_path_factory.mktemp("bands")
    draw = np.random.default_rng(0)
    for split, count in (("train", 16), ("valid", 6)):
        for name, level in (("low", 40), ("high", 200)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 90, (40, 48, 5), dtype=np.uint8)
                pixels[..., 4] = level
                np.save(root / split / name / f"{number}.npy", pixels)
    return root


def test_five_channels_train_predict_and_resume_from_a_checkpoint(bands, trainer, tmp_path):
    data = ImageData.from_folder(bands, size=32, batch_size=8, num_workers=0, channels=5)
    pl.seed_everything(0, verbose=False)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False, in_channels=5, lr=3e-3)
    run = trainer(12)
    run.fit(task, data)
    assert run.callback_metrics["val_error_rate"] == 0
    run.save_checkpoint(tmp_path / "five.ckpt")
    again = load(tmp_path / "five.ckpt")
    assert {found.label for found in again.predict(bands / "valid/low")} == {"low"}
    assert again.predict(np.load(bands / "valid/high/0.npy")).label == "high"
    with pytest.raises(DataError, match="expected an image of 5 channels"):
        again.predict(np.zeros((32, 32, 3), np.uint8))


def test_five_channels_can_be_looked_at(bands):
    data = ImageData.from_folder(bands, size=32, num_workers=0, channels=5, augment="none")
    assert data.dataset(Split.VALID).channels == 5
    figure = data.show_batch(4)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (32, 32, 3)


def test_one_channel_is_grey(folder, trainer):
    data = ImageData.from_folder(folder, size=32, batch_size=8, num_workers=0, channels=1)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False, in_channels=1)
    trainer(1, limit_train_batches=1).fit(task, data)
    assert next(iter(data.val_dataloader()))["image"].shape[1] == 1
    assert task.predict(folder / "valid/red/0.jpg").label in ("red", "blue")


def test_a_model_of_other_channels_is_refused_before_training(folder, trainer):
    data = ImageData.from_folder(folder, size=32, num_workers=0)
    task = UNetSegmenter(backbone="resnet18", num_classes=2, weights=False, in_channels=4)
    task.kind = "single"
    with pytest.raises(DataError, match=r"takes images of 4 channels.*gives 3"):
        trainer(1).fit(task, data)


def test_files_of_another_number_of_channels_are_all_named_before_training(bands, trainer):
    data = ImageData.from_folder(bands, size=32, num_workers=0, channels=4)
    task = ImageClassifier("test_resnet", num_classes=2, weights=False, in_channels=4)
    with pytest.raises(DataError, match=r"44 cannot be used:(.|\n)*expected an image of 4 channels"):
        trainer(1).fit(task, data)
