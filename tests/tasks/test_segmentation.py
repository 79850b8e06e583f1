import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.after.loading import load
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks import UNetSegmenter
from lightning_finetune.tasks.measures.metrics import ClassIoU


def task(**options) -> UNetSegmenter:
    network = {} if "model" in options else {"backbone": "resnet18"}
    return UNetSegmenter(**{**network, "num_classes": 3, "weights": False, **options})


def scenes(count: int = 6, ignore: int | None = None) -> TensorDataset:
    """Bright channels in halves of the image; the mask says which."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 3, (count, 1, 2), generator=generator).repeat_interleave(32, 1).repeat_interleave(16, 2)
    images = nn.functional.one_hot(masks, 3).movedim(-1, 1) + 0.1 * torch.rand(count, 3, 32, 32, generator=generator)
    if ignore is not None:
        masks[:, :5] = ignore
    return TensorDataset(images, masks)


def loader(**options) -> DataLoader:
    return DataLoader(scenes(**options), 4)


@pytest.mark.parametrize("ignore", [None, 2, 255])
def test_numbers_are_scikit_learns(trainer, ignore):
    torch.manual_seed(0)
    segmenter = task(ignore_index=ignore)
    images, masks = scenes(ignore=ignore).tensors
    (values,) = trainer().validate(segmenter, loader(ignore=ignore), verbose=False)
    with torch.no_grad():
        logits = segmenter.eval()(images)
    counts = masks != ignore if ignore is not None else torch.ones_like(masks, dtype=torch.bool)
    true, found = masks[counts], logits.argmax(1)[counts]
    assert values["val_pixel_accuracy"] == pytest.approx(accuracy_score(true, found), abs=1e-6)
    classes = [label for label in range(3) if label != ignore]
    each = jaccard_score(true, found, labels=classes, average=None, zero_division=0)
    assert [values[f"val_iou_{label}"] for label in classes] == pytest.approx(each.tolist(), abs=1e-6)
    assert values["val_miou"] == pytest.approx(each.mean(), abs=1e-6)


def test_learns_and_shows_loss_and_accuracy(trainer):
    torch.manual_seed(0)
    run = trainer(epochs=40)
    run.fit(task(model=pixelwise(), loss={"ce": 1.0, "dice": 0.5}, lr=0.1), loader(), loader())
    assert run.callback_metrics["val_miou"] > 0.9
    assert run.progress_bar_metrics.keys() == {"val_loss", "val_pixel_accuracy"}


def test_iou_of_a_class_that_is_nowhere_is_not_a_number():
    metric = ClassIoU(4, ignore_index=3)
    metric.update(torch.tensor([0, 1, 1, 3]), torch.tensor([0, 0, 1, 3]))
    found = metric.compute()
    assert found[:2].tolist() == [0.5, 0.5]
    assert found[2:].isnan().all()


def pixelwise() -> nn.Module:
    return nn.Conv2d(3, 3, 1)


def trained(trainer, tmp_path) -> UNetSegmenter:
    segmenter, run = task(model=pixelwise(), lr=0.1), trainer(epochs=40)
    run.fit(segmenter, loader(), loader())
    segmenter.preprocessing = {"size": [32, 32], "mean": [0.0] * 3, "std": [1.0] * 3, "resize": "crop"}
    segmenter.classes = ["red", "green", "blue"]
    run.save_checkpoint(tmp_path / "masks.ckpt")
    return segmenter


def test_predictions_have_the_size_of_the_image_and_see_all_of_it(trainer, tmp_path):
    torch.manual_seed(0)
    segmenter = trained(trainer, tmp_path)
    loaded = load(tmp_path / "masks.ckpt", model=pixelwise())
    pixels = np.zeros((80, 240, 3), np.uint8)
    pixels[:, :60, 0] = pixels[:, 60:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    prediction = loaded.predict(tmp_path / "wide.png")
    assert prediction.mask.shape == (80, 240)
    assert prediction.classes == ("red", "green", "blue")
    truth = np.where(np.arange(240) < 60, 0, 2)
    assert (prediction.mask == truth).mean() > 0.98  # a centre crop would not know the ends
    assert np.array_equal(segmenter.predict(pixels).mask, prediction.mask)


@pytest.mark.parametrize(
    ("image", "seen"), [((80, 240), (32, 96)), ((240, 80), (96, 32)), ((16, 16), (32, 32)), ((40, 20), (64, 32))]
)
def test_an_image_is_seen_whole_at_the_scale_of_validation(image, seen):
    assert task(model=pixelwise()).input_size(np.zeros((*image, 3), np.uint8), (32, 32)) == seen


def test_a_unet_is_rebuilt_from_its_checkpoint(trainer, tmp_path):
    segmenter, run = task(ignore_index=2, loss={"ce": 1.0, "lovasz": 0.5}), trainer(epochs=0)
    run.fit(segmenter, loader())
    run.save_checkpoint(tmp_path / "unet.ckpt")
    loaded = load(tmp_path / "unet.ckpt")
    assert loaded.criterion.losses == segmenter.criterion.losses
    with torch.no_grad():
        torch.testing.assert_close(loaded(images := torch.rand(1, 3, 40, 50)), segmenter.eval()(images))


def test_ids_that_are_no_class_are_named(trainer):
    run = trainer()
    with pytest.raises(DataError, match=r"ids 0 to 2 \(num_classes=3\), got \[255\].*ignore_index"):
        run.fit(task(), loader(ignore=255), loader(ignore=255))
    assert run.global_step == 0


def test_arguments_that_contradict_each_other():
    with pytest.raises(FinetuneError, match="`class_weights`"):
        task(loss=nn.CrossEntropyLoss(), class_weights=[1.0, 1.0, 1.0])
    assert isinstance(task(loss=nn.CrossEntropyLoss()).criterion, nn.CrossEntropyLoss)
    assert task(loss="lovasz", ignore_index=2).criterion.losses == {"lovasz": 1.0}


def masked(masks: torch.Tensor) -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(len(masks), 3, 32, 32), masks), 2)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.zeros(4, 1, 32, 32).long(), r"Expected masks \[B, H, W\] of class ids, got \[2, 1, 32, 32\]"),
        (torch.zeros(4, 16, 32).long(), r"logits \[2, 3, 16, 32\] for masks .* got \[2, 3, 32, 32\]"),
        (torch.full((4, 32, 32), 0.5), "numbers with fractions"),
        (torch.full((4, 32, 32), 255), "give its pixels the number of the class"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_masks_of_another_form_are_named_with_and_without_validation(trainer, masks, words, alone):
    segmenter = UNetSegmenter(pixelwise(), num_classes=3)
    with pytest.raises(DataError, match=words):
        trainer().fit(segmenter, masked(masks), *([] if alone else [masked(masks)]))


def test_a_model_that_gives_other_classes_is_named(trainer):
    with pytest.raises(DataError, match=r"logits \[2, 2, 32, 32\] for masks .* got \[2, 3, 32, 32\]"):
        trainer().fit(UNetSegmenter(pixelwise(), num_classes=2), masked(torch.zeros(4, 32, 32).long()))


def test_a_score_of_one_class_alone_is_told(trainer):
    masks = torch.full((4, 32, 32), 255)
    with pytest.warns(UserWarning, match="fewer than two classes"):
        trainer().validate(UNetSegmenter(pixelwise(), num_classes=3, ignore_index=255), masked(masks), verbose=False)
