"""Whole batches from the key that says all about them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_finetune.data import Augment, ImageItems
from lightning_finetune.data.batches.dataset import BatchKey, ImageDataset
from lightning_finetune.data.block.splits import Split
from tests.data.images import fill

FLIPS = {"max_rotate": 0.0, "max_zoom": 1.0, "max_lighting": 0.0, "max_warp": 0.0}


@pytest.fixture
def items(insects: Path) -> ImageItems:
    return ImageItems.from_folder(insects).split_by_folder().label_from_folder()


def flipping(items: ImageItems, flip_vert: bool) -> ImageDataset:
    data = items.datamodule(augment=Augment(flip_vert=flip_vert, **FLIPS), resize="squish", num_workers=0)
    return data.dataset(Split.TRAIN)


def key(epoch: int, size: tuple[int, int] = (24, 24), count: int = 19) -> BatchKey:
    return BatchKey(np.arange(count), epoch, size)


def test_flips_are_exact_and_drawn_anew_each_epoch(items: ImageItems):
    dataset = flipping(items, flip_vert=False)
    plain = items.datamodule(augment="none", resize="squish").dataset(Split.TRAIN)[key(0)]["image"]
    mirrored = []
    for epoch in range(2):
        batch = dataset[key(epoch)]["image"]
        mirrored.append([torch.equal(image, whole.flip(-1)) for image, whole in zip(batch, plain, strict=True)])
        rest = [torch.equal(image, whole) for image, whole in zip(batch, plain, strict=True)]
        assert all(a or b for a, b in zip(mirrored[-1], rest, strict=True))
        assert 3 < sum(mirrored[-1]) < 16
    assert mirrored[0] != mirrored[1]


def test_images_that_are_not_square_keep_their_size_under_every_flip(items: ImageItems):
    dataset = flipping(items, flip_vert=True)
    for epoch in range(3):
        assert dataset[key(epoch, (16, 24))]["image"].shape == (19, 3, 16, 24)


def test_a_batch_is_the_same_whatever_is_asked_beside(items: ImageItems):
    dataset = items.datamodule(num_workers=0).dataset(Split.TRAIN)
    whole, some = dataset[key(4)], dataset[BatchKey(np.array([7, 2]), 4, (24, 24))]
    for name in ("image", "label", "index", "plan"):
        assert torch.equal(whole[name][[7, 2]], some[name]), name


def test_crops_lie_anywhere_in_training_and_in_the_middle_otherwise(items: ImageItems):
    data = items.datamodule(augment=Augment(do_flip=False), num_workers=0)
    train, valid = data.dataset(Split.TRAIN), data.dataset(Split.VALID)
    # The green channel of a picture is its place from left to right.
    lefts = [float(image[1].float().min()) for epoch in range(5) for image in train[key(epoch)]["image"]]
    assert min(lefts) < 12
    assert max(lefts) > 50
    assert len({round(left) for left in lefts}) > 20
    middles = [float(image[1].float().mean()) for image in valid[BatchKey(np.arange(11), 0, (24, 24))]["image"]]
    assert middles == pytest.approx([126] * 11, abs=3)


def test_masks_are_cropped_and_flipped_with_their_images(tmp_path: Path):
    for split in ("train", "valid"):
        for path in fill(tmp_path / split / "images", 6, size=(30, 60)):
            (tmp_path / split / "masks").mkdir(exist_ok=True)
            ids = (np.asarray(Image.open(path))[..., 1] // 26).astype(np.uint8)  # ids follow the green channel
            Image.fromarray(ids).save(tmp_path / split / "masks" / f"{path.stem}.png")
    block = ImageItems.from_folder(tmp_path, skip=["masks"]).split_by_folder()
    items = block.masks_from("masks", [str(k) for k in range(10)])
    for flip_vert in (False, True):
        data = items.datamodule(augment=Augment(flip_vert=flip_vert, **FLIPS), num_workers=0)
        batch = data.dataset(Split.TRAIN)[key(1, (30, 30), 6)]
        green = batch["image"][:, 1].float() / 26
        assert (green - 0.5 - batch["mask"]).abs().max() < 0.75


def test_images_without_augmentation_are_those_that_validation_would_see(items: ImageItems):
    data = items.datamodule(augment="none", num_workers=0)
    train, as_valid = data.dataset(Split.TRAIN), data.dataset(Split.TRAIN)
    as_valid.augment = None
    for epoch in range(2):
        assert torch.equal(train[key(epoch, (30, 24))]["image"], as_valid[key(0, (30, 24))]["image"])
