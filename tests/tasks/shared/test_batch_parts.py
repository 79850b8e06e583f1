import pytest
import torch

from lightning_finetune.errors import DataError
from lightning_finetune.tasks.shared.batch_parts import images_of, target_of

IMAGES, LABELS = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])


@pytest.mark.parametrize("batch", [{"image": IMAGES, "label": LABELS}, (IMAGES, LABELS), [IMAGES, LABELS]])
def test_dicts_and_tuples(batch):
    assert images_of(batch) is IMAGES
    assert target_of(batch, "label") is LABELS


def test_images_alone():
    assert images_of(IMAGES) is IMAGES


def test_errors_say_what_the_batch_holds():
    with pytest.raises(DataError, match=r"'label' or second, got a dict of 'image': a tensor \[2, 3, 4, 4\]"):
        target_of({"image": IMAGES, "mask": LABELS}, "label")
    with pytest.raises(DataError, match=r"images \[B, C, H, W\].*a tuple of 2: a tensor \[2\]"):
        images_of((LABELS, LABELS))
    with pytest.raises(DataError, match="second"):
        target_of([IMAGES], "label")
