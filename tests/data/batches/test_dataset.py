"""Whole batches from the key that says all about them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_finetune.data import Augment, ImageData, ImageItems
from lightning_finetune.data.batches.dataset import BatchKey, ImageDataset
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError
from tests import forking
from tests.data.images import fill, picture

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


kept_on_linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="of Linux")

KINDS = ("jpeg", "turned by EXIF", "grey", "five channels", "masks", "masks of 16 bits")
ALL = 2**30


def folder_of(root: Path, kind: str) -> ImageItems:
    """Wide, tall and square images of a kind in two splits."""
    for split in ("train", "valid"):
        for number, size in enumerate([(48, 64), (150, 90), (40, 40), (64, 64), (33, 90)]):
            stem = root / split / "ab"[number % 2] / str(number)
            stem.parent.mkdir(parents=True, exist_ok=True)
            image = picture(number, size)
            if kind == "five channels":
                pixels = np.asarray(image)
                np.save(stem, np.concatenate([pixels, 255 - pixels[..., :2]], axis=-1))
                continue
            exif = Image.Exif()
            exif[0x0112] = 6 if kind.startswith("turned") else 1
            image.save(stem.with_suffix(".jpg"), exif=exif)
            if kind.startswith("masks"):
                (root / split / "masks").mkdir(exist_ok=True)
                ids = np.asarray(image)[..., 1] // 26
                mask = (
                    Image.fromarray(ids.astype(np.uint16))
                    if kind.endswith("bits")
                    else Image.fromarray(ids).convert("P")
                )
                mask.save(root / split / "masks" / f"{number}.png")
    items = ImageItems.from_folder(root, skip=["masks"]).split_by_folder()
    return (
        items.masks_from("masks", [str(k) for k in range(10)])
        if kind.startswith("masks")
        else items.label_from_folder()
    )


@contextmanager
def no_files(root: Path) -> Iterator[None]:
    """Within, the files are gone."""
    away = root.with_name("away")
    root.rename(away)
    yield
    away.rename(root)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@kept_on_linux
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("augment", "resize"), [("photo", "crop"), ("photo", "squish"), ("none", "crop")])
def test_batches_of_what_is_kept_are_those_of_files(tmp_path: Path, kind: str, augment: str, resize: str):
    channels = {"grey": 1, "five channels": 5}.get(kind, 3)
    data = folder_of(tmp_path / "images", kind).datamodule(
        augment=augment, resize=resize, channels=channels, num_workers=0
    )
    for split in (Split.TRAIN, Split.VALID):
        read, kept = data.dataset(split), data.dataset(split)
        kept.keep_decoded(ALL)
        for size in [(32, 32), (40, 24), (32, 32)]:  # as progressive resizing would, and back
            keys = [key(epoch, size, 5) for epoch in range(3)]
            wanted = [read[one] for one in keys]
            assert_same(kept[keys[0]], wanted[0])
            if kind == "masks of 16 bits":
                assert_same(kept[keys[1]], wanted[1])  # from the files: they are not kept
                continue
            with no_files(tmp_path / "images"):
                for one, batch in zip(keys, wanted, strict=True):
                    assert_same(batch, kept[one])


@kept_on_linux
def test_what_does_not_fit_is_read_each_time_and_the_rest_is_kept(tmp_path: Path):
    dataset = folder_of(tmp_path / "images", "jpeg").datamodule(num_workers=0).dataset(Split.TRAIN)
    read = folder_of(tmp_path / "others", "jpeg").datamodule(num_workers=0).dataset(Split.TRAIN)
    dataset.keep_decoded(5 * 3 * 4096)  # 12 KB each: the first image has 9, the fourth 40
    for epoch in range(3):
        assert_same(dataset[key(epoch, (48, 48), 5)], read[key(epoch, (48, 48), 5)])
    with no_files(tmp_path / "images"):
        dataset[BatchKey(np.array([0]), 3, (48, 48))]
        with pytest.raises(DataError, match="no such file"):
            dataset[BatchKey(np.array([3]), 3, (48, 48))]


@kept_on_linux
@pytest.mark.parametrize(("free", "part"), [(None, 2**30), (2**40, 2**30), (2**20, 2**17)])
def test_images_take_an_eighth_of_free_memory_and_give_it_back(insects: Path, monkeypatch, free: int | None, part: int):
    monkeypatch.setattr("lightning_finetune.data.batches.data_module.free_bytes", lambda: free)
    data = ImageData.from_folder(insects, size=32, num_workers=0)
    loader = data.train_dataloader()
    kept = loader.images._readers["image"].kept
    assert kept.part == part // len(loader.images) // 4096 * 4096
    data.teardown("fit")
    assert loader.images._readers["image"].kept is None


@kept_on_linux
@pytest.mark.parametrize("cache_images", [True, False])
def test_a_file_that_changes_is_seen_in_the_next_epoch_if_none_are_kept(tmp_path: Path, cache_images: bool):
    for name in "ab":
        for split in ("train", "valid"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "0.png")
    options = {"size": 32, "batch_size": 2, "num_workers": 0, "cache_images": cache_images}
    loader = ImageData.from_folder(tmp_path, **options).val_dataloader()
    assert next(iter(loader))["image"].max() == 0
    for file in (tmp_path / "valid").rglob("*.png"):
        Image.new("RGB", (32, 32), "white").save(file)
    assert next(iter(loader))["image"].max() == (0 if cache_images else 255)


def test_images_of_a_dataset_are_asked_for_in_every_epoch():
    """They may be other ones each time."""
    pairs = [(Image.new("RGB", (32, 32)), k % 2) for k in range(4)]
    dataset = ImageData.from_dataset(pairs, pairs, num_workers=0, augment="none").dataset(Split.TRAIN)
    dataset.keep_decoded(ALL)
    assert dataset[key(0, (32, 32), 4)]["image"].max() == 0
    pairs[:] = [(Image.new("RGB", (32, 32), "white"), k) for _, k in pairs]
    assert dataset[key(0, (32, 32), 4)]["image"].min() == 255


SHARED = """
import multiprocessing, sys
from pathlib import Path
import torch
from lightning_finetune.data import ImageData

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    root = Path(sys.argv[1])
    data = ImageData.from_folder(root, size=32, batch_size=2, num_workers=2, augment="satellite")
    loader = data.train_dataloader()
    first = {int(index): True for batch in loader for index in batch["index"]}
    root.rename(root.with_name("away"))
    loader.sampler.set_epoch(1)  # another order: most images go to the other worker
    again = {int(index): image for batch in loader for index, image in zip(batch["index"], batch["image"])}
    loader.close()
    plain = ImageData.from_folder(root.with_name("away"), size=32, batch_size=10, num_workers=0, augment="satellite")
    sampler = plain.train_dataloader()
    sampler.sampler.set_epoch(1)
    wanted = next(iter(sampler))
    assert all(torch.equal(again[int(k)], image) for k, image in zip(wanted["index"], wanted["image"]))
    print(len(first), len(again))
"""


@kept_on_linux
@pytest.mark.parametrize("start", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_share_what_one_of_them_has_decoded(tmp_path: Path, start: str):
    root = tmp_path / "images"
    for name in ("train/a", "train/b", "valid/a", "valid/b"):
        fill(root / name, 5, start=ord(name[-1]))
    (tmp_path / "main.py").write_text(SHARED)
    done = forking.run(tmp_path / "main.py", root, start)
    assert done.stdout.split() == ["10", "10"], done.stderr[-3000:]
