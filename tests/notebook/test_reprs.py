"""What a cell shows of an object that is its last line."""

from pathlib import Path

import numpy as np
import pytest

from lightning_finetune import FineTune, ImageData, Phase
from lightning_finetune.tasks.classification import Prediction
from lightning_finetune.tasks.multilabel import LabelsPrediction
from lightning_finetune.tasks.regression import NumbersPrediction
from lightning_finetune.tasks.segmentation import MaskPrediction

SHARES = {"cat": 0.75, "dog": 0.2, "cow": 0.03, "hen": 0.01, "pig": 0.006, "rat": 0.004}


@pytest.mark.parametrize(
    "phase",
    [
        Phase(4),
        Phase(None, 2, None),
        Phase(3, "head", ("find", 3e-4), size=(64, 96), until="val_loss", schedule="flat_cos", cooldown=1),
    ],
)
def test_a_phase_is_shown_as_the_call_that_makes_it(phase: Phase) -> None:
    assert eval(repr(phase)) == phase
    assert "div" not in repr(phase), "what is left at its default is not shown"


def test_phases_of_a_recipe_are_shown_one_per_line() -> None:
    assert repr(FineTune(4)) == "FineTune:\n  Phase(4, 'all', lr=(0.0001, 0.0005))"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (Prediction("cat", 0.75, SHARES), "Prediction: cat 75.0%, dog 20.0%, cow 3.0%, hen 1.0%, pig 0.6%, …"),
        (
            LabelsPrediction(("cat",), {"cat": 0.75, "dog": 0.2}, Path("a.jpg")),
            "LabelsPrediction of a.jpg: cat (cat 75.0%, dog 20.0%)",
        ),
        (LabelsPrediction((), {"cat": 0.1}), "LabelsPrediction: no label (cat 10.0%)"),
        (NumbersPrediction({"age": 38.51239}), "NumbersPrediction: age 38.51"),
        (
            MaskPrediction(np.array([[0, 2, 2, 2]]), ("road", "sky", "tree")),
            "MaskPrediction, 1 x 4 pixels: tree 75.0%, road 25.0%",
        ),
    ],
)
def test_a_prediction_is_a_line(said: object, shown: str) -> None:
    assert repr(said) == shown


def test_data_counts_what_its_labels_are(photos: Path) -> None:
    assert "24 train, 12 valid images, 3 classes (blue, green, red)" in repr(ImageData.from_folder(photos, size=32))
    images = [(np.zeros((8, 8, 3), np.uint8), float(number)) for number in range(4)]
    assert ", 1 number (" in repr(ImageData.from_dataset(images, images, size=8))
