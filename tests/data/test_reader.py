"""What is kept decoded gives the same pixels as files do, from memory of all worker processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_finetune.data import ImageData, ImageItems
from lightning_finetune.data.dataset import BatchKey
from lightning_finetune.data.memory import SharedArrays
from lightning_finetune.data.splits import Split
from lightning_finetune.errors import DataError
from tests.data.conftest import fill, picture

pytestmark = pytest.mark.skipif(not SharedArrays.is_possible, reason="of Linux")

KINDS = ("jpeg", "turned by EXIF", "grey", "five channels", "masks")


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
            if kind == "masks":
                (root / split / "masks").mkdir(exist_ok=True)
                palette = Image.fromarray(np.asarray(image)[..., 1] // 26).convert("P")
                palette.save(root / split / "masks" / f"{number}.png")
    items = ImageItems.from_folder(root, skip=["masks"]).split_by_folder()
    return items.masks_from("masks", [str(k) for k in range(10)]) if kind == "masks" else items.label_from_folder()


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("augment", "resize"), [("photo", "crop"), ("photo", "squish"), ("none", "crop")])
def test_batches_of_what_is_kept_are_those_of_files(tmp_path: Path, kind: str, augment: str, resize: str):
    channels = {"grey": 1, "five channels": 5}.get(kind, 3)
    data = folder_of(tmp_path / "images", kind).datamodule(
        augment=augment, resize=resize, channels=channels, num_workers=0
    )
    for split in (Split.TRAIN, Split.VALID):
        read, kept = data.dataset(split), data.dataset(split)
        kept.keep_decoded()
        for size in [(32, 32), (40, 24), (32, 32)]:  # as progressive resizing would, and back
            keys = [BatchKey(np.arange(5), epoch, size) for epoch in range(3)]
            kept[keys[0]]
            wanted = [read[key] for key in keys]
            with no_files(tmp_path / "images"):
                for key, batch in zip(keys, wanted, strict=True):
                    assert_same(batch, kept[key])


def test_another_size_is_read_from_the_file_again(tmp_path: Path):
    dataset = folder_of(tmp_path / "images", "jpeg").datamodule(num_workers=0).dataset(Split.TRAIN)
    dataset.keep_decoded()
    dataset[BatchKey(np.arange(5), 0, (32, 32))]
    with no_files(tmp_path / "images"), pytest.raises(DataError, match="no such file"):
        dataset[BatchKey(np.arange(5), 0, (33, 32))]


def test_images_of_a_dataset_are_asked_for_in_every_epoch():
    """They may be other ones each time."""
    pairs = [(Image.new("RGB", (32, 32)), k % 2) for k in range(4)]
    dataset = ImageData.from_dataset(pairs, pairs, num_workers=0, augment="none").dataset(Split.TRAIN)
    dataset.keep_decoded()
    key = BatchKey(np.arange(4), 0, (32, 32))
    assert dataset[key]["image"].max() == 0
    pairs[:] = [(Image.new("RGB", (32, 32), "white"), k) for _, k in pairs]
    assert dataset[key]["image"].min() == 255


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


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_share_what_one_of_them_has_decoded(tmp_path: Path, start: str):
    root = tmp_path / "images"
    for name in ("train/a", "train/b", "valid/a", "valid/b"):
        fill(root / name, 5, start=ord(name[-1]))
    (tmp_path / "main.py").write_text(SHARED)
    done = subprocess.run([sys.executable, tmp_path / "main.py", root, start], capture_output=True, text=True)
    assert done.stdout.split() == ["10", "10"], done.stderr[-3000:]
