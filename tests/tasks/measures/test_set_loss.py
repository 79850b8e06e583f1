"""The loss of a set is one number, however its images are shared out among batches."""

import pytest
import torch
from torch import Tensor, nn

from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier, UNetSegmenter
from lightning_finetune.tasks.base import BaseTask

WEIGHTS = [1.0, 5.0, 0.1]


def task(cls: type[BaseTask], **options) -> BaseTask:
    pooled = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return cls(nn.Conv2d(3, 3, 3) if cls is UNetSegmenter else pooled, num_classes=3, **options)


def batch(cls: type[BaseTask]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (11, 3, 6, 5) if cls is UNetSegmenter else (11, 3)
    logits = 2 * torch.randn(shape, generator=generator)
    if cls is MultiLabelClassifier:
        return logits, torch.randint(0, 2, (11, 3), generator=generator).float()
    target = torch.randint(0, 3, (11, *shape[2:]), generator=generator)
    if cls is UNetSegmenter:
        target[0], target[4, :4], target[7] = 255, 255, 1
    return logits, target


def of_set(one: BaseTask, logits: Tensor, target: Tensor, size: int) -> float:
    parts = zip(logits.split(size), target.split(size), strict=True)
    return one.set_loss.mean(sum(one.set_loss.sums(*part) for part in parts)).item()


WAYS = [
    (ImageClassifier, {"class_weights": WEIGHTS}),
    (ImageClassifier, {"class_weights": WEIGHTS, "label_smoothing": 0.2}),
    (ImageClassifier, {"label_smoothing": 0.2}),
    (ImageClassifier, {"loss": nn.CrossEntropyLoss(torch.tensor(WEIGHTS), ignore_index=2)}),
    (MultiLabelClassifier, {"pos_weight": WEIGHTS, "label_smoothing": 0.1}),
    (MultiLabelClassifier, {"loss": nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHTS))}),
    (UNetSegmenter, {"ignore_index": 255, "class_weights": WEIGHTS}),
    (UNetSegmenter, {"ignore_index": 255, "loss": "focal"}),
    (UNetSegmenter, {"ignore_index": 255, "loss": {"ce": 1.0, "dice": 0.5}, "class_weights": WEIGHTS}),
    (UNetSegmenter, {"loss": nn.CrossEntropyLoss(torch.tensor(WEIGHTS), ignore_index=255)}),
]


@pytest.mark.parametrize(("cls", "options"), WAYS)
@pytest.mark.parametrize("size", [1, 4, 11])
def test_it_is_that_of_one_batch_of_the_whole_set(cls, options, size):
    logits, target = batch(cls)
    one = task(cls, **options)
    assert of_set(one, logits, target, size) == pytest.approx(one.criterion(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("size", [1, 4, 11])
def test_lovasz_is_the_mean_over_images_with_pixels_that_count(size):
    logits, target = batch(UNetSegmenter)
    one = task(UNetSegmenter, loss="lovasz", ignore_index=255)
    each = [one.criterion(logit[None], mask[None]).item() for logit, mask in zip(logits[1:], target[1:], strict=True)]
    assert of_set(one, logits, target, size) == pytest.approx(sum(each) / 10, rel=1e-5)


def test_a_loss_of_somebody_else_is_meaned_over_images():
    logits, target = batch(ImageClassifier)
    one = task(ImageClassifier, loss=nn.NLLLoss(torch.tensor(WEIGHTS)))
    losses = [one.criterion(logits[:8], target[:8]) * 8, one.criterion(logits[8:], target[8:]) * 3]
    assert of_set(one, logits, target, 8) == pytest.approx(sum(losses).item() / 11)


@pytest.mark.parametrize(("cls", "target"), [(ImageClassifier, 1), (UNetSegmenter, 255)])
def test_batches_that_weigh_nothing_count_for_nothing(cls, target):
    logits, known = batch(cls)
    options = {"class_weights": [1.0, 0.0, 1.0]} | ({"ignore_index": 255} if cls is UNetSegmenter else {})
    one = task(cls, **options)
    nothing = one.set_loss.sums(logits, torch.full_like(known, target))
    assert one.set_loss.mean(nothing) == 0
    assert one.set_loss.mean(nothing + one.set_loss.sums(logits, known)).item() == pytest.approx(
        of_set(one, logits, known, 11)
    )


def test_a_loss_that_is_not_finite_shows():
    logits, target = batch(ImageClassifier)
    logits[3] = float("nan")
    assert not torch.isfinite(torch.tensor(of_set(task(ImageClassifier, class_weights=WEIGHTS), logits, target, 4)))
