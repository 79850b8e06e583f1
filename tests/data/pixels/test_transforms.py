"""Anybody's transforms, with a random state for each image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lightning_finetune.data import ImageData
from lightning_finetune.data.pixels.transforms import EachImage, augmenter
from lightning_finetune.errors import DataError

JITTER = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.5), v2.RandomRotation(30)])


def images(count: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(count, -1, -1, -1)


def test_each_image_has_its_own_draw_which_repeats():
    each = EachImage(JITTER)
    same = images()
    plan = each.plan(0, 0, np.arange(6), (16, 16))
    first, _ = each(same, None, plan)
    assert first.dtype == torch.float32
    assert first.max() <= 1
    assert len({image.numpy().tobytes() for image in first}) == 6
    torch.rand(3)
    assert torch.equal(each(same, None, plan)[0], first)
    assert not torch.equal(each(same, None, each.plan(0, 1, np.arange(6), (16, 16)))[0], first)


def test_the_random_state_of_the_run_is_left_as_it_was():
    each = EachImage(JITTER)
    same, before = images(), torch.get_rng_state()
    each(same, None, each.plan(0, 0, np.arange(6), (16, 16)))
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_go_through_the_same_transform():
    each = EachImage(v2.RandomHorizontalFlip(p=1.0))
    masks = torch.arange(256).reshape(1, 16, 16).expand(6, -1, -1)
    _, flipped = each(images(), masks, each.plan(0, 0, np.arange(6), (16, 16)))
    assert torch.equal(flipped, masks.flip(-1))


def test_a_transform_that_changes_the_size_is_refused():
    each = EachImage(v2.Resize(8))
    with pytest.raises(DataError, match="keeps the shape"):
        each(images(), None, each.plan(0, 0, np.arange(6), (16, 16)))


def test_a_data_module_takes_a_transform(insects: Path):
    data = ImageData.from_folder(insects, size=16, batch_size=4, num_workers=0, augment=lambda image: image // 2)
    plain = ImageData.from_folder(insects, size=16, batch_size=4, num_workers=0, augment=lambda image: image)
    halved, whole = (next(iter(d.train_dataloader())) for d in (data, plain))
    assert torch.allclose(data.augmented(halved)["image"], (whole["image"] // 2) / 255)


def test_what_is_no_augmentation_is_refused():
    with pytest.raises(DataError, match="got int"):
        augmenter(3)
