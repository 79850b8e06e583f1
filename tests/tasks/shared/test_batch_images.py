"""Images of loaders that know nothing of this package."""

import warnings

import pytest
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import FineTune, ImageClassifier
from lightning_finetune.errors import DataError
from tests.foreign import quiet_trainer

NORMAL = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
UNIT = (NORMAL + 1) / 2
LABELS = torch.tensor([0, 1] * 4)


def act(folder, how: str, images: torch.Tensor, labels: torch.Tensor = LABELS, learnt: bool = False) -> None:
    weights = timm.create_model("test_resnet").state_dict() if learnt else False
    task = ImageClassifier("test_resnet", num_classes=2, weights=weights)
    loader = DataLoader(TensorDataset(images, labels), 4)
    if how == "recipe":
        quiet_trainer(folder, callbacks=[FineTune(1)]).fit(task, loader)
    elif how == "fit":
        quiet_trainer(folder, max_epochs=1).fit(task, loader)
    else:
        getattr(quiet_trainer(folder), how)(task, loader)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((UNIT * 255).byte(), r"of float32, got uint8. Give image.float\(\) / 255, and normalise"),
        (NORMAL.double(), r"of float32, got float64. Give image.float\(\) in"),
        (NORMAL.permute(0, 2, 3, 1), r"\[B, 3, H, W\].* got \[4, 32, 32, 3\]. Give image.permute\(2, 0, 1\)"),
        (NORMAL[:, :1], r"got \[4, 1, 32, 32\]. Give image.repeat\(3, 1, 1\)"),
        (NORMAL[:, [0, 1, 2, 0]], r"got \[4, 4, 32, 32\]. Give images of 3 channels"),
    ],
)
@pytest.mark.parametrize("how", ["fit", "recipe", "validate", "predict"])
def test_what_a_model_does_not_take_is_named(tmp_path, images, words, how):
    with pytest.raises(DataError, match=words):
        act(tmp_path, how, images)


@pytest.mark.parametrize("how", ["fit", "validate", "predict"])
@pytest.mark.parametrize(("images", "span"), [(UNIT, "0 to 1"), (UNIT * 255, "0 to 255")])
def test_images_that_are_not_normalised_are_told_to_pretrained_weights(tmp_path, images, span, how):
    with pytest.warns(
        UserWarning, match=rf"loader go from {span}, .*normalised ones, from -.* mean \[0.*\] and std \[0"
    ):
        act(tmp_path, how, images, learnt=True)


@pytest.mark.parametrize(("images", "learnt"), [(NORMAL, True), (UNIT, False)])
def test_others_are_not(tmp_path, images, learnt):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The images of the loader")
        act(tmp_path, "fit", images, learnt=learnt)


@pytest.mark.parametrize("how", ["fit", "recipe", "validate"])
def test_a_label_that_is_no_class_is_named_in_a_later_batch_too(tmp_path, how):
    with pytest.raises(DataError, match=r"got 0 to 2. Give num_classes=3"):
        act(tmp_path, how, NORMAL, torch.tensor([0, 1, 0, 1, 0, 2, 0, 1]))
