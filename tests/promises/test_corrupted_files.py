"""Two thousand damaged files: each is read, or refused with an error of ours that names it; nothing else is raised."""

import io
import json
import random
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
from PIL import Image

from lightning_finetune import ImageClassifier, ImageData, load
from lightning_finetune.data.block.check import look, refuse
from lightning_finetune.data.pixels.decode import load_image, mask_pixels
from lightning_finetune.errors import CheckpointError, DataError, FinetuneError

pytestmark = pytest.mark.slow
FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF"}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut off, doubled, dropped, or replaced by noise."""
    start, length = draw.randrange(len(content)), draw.choice([1, 2, 8, 64, 1024])
    end = min(len(content), start + length)
    ways = [
        lambda: content[:start],
        lambda: content[:start] + content[end:],
        lambda: content[:end] + content[start:],
        lambda: content[:start] + draw.randbytes(end - start) + content[end:],
        lambda: content[:start] + b"\0" * (end - start) + content[end:],
        lambda: bytes(byte ^ (draw.random() < 0.01) << draw.randrange(8) for byte in content[:4096]) + content[4096:],
        lambda: draw.randbytes(length),
    ]
    return draw.choice(ways)()


def names(error: FinetuneError, path: Path) -> bool:
    """Fails where an error does not say which file, or which part of the table in a folder, is wrong."""
    assert path.name in str(error) or path.is_dir()
    assert len(str(error)) > 20
    return True


def picture(suffix: str, mode: str = "RGB") -> bytes:
    """A valid file."""
    shape = (48, 64, 3) if mode == "RGB" else (48, 64)
    pixels = np.random.default_rng(0).integers(0, 256 if mode == "RGB" else 4, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, FORMATS[suffix])
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_images(tmp_path: Path, suffix: str):
    whole, refused = picture(suffix), 0
    for number in range(150):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(damaged(whole, random.Random(number)))
        try:
            image = load_image(path, 32)
            assert image.shape == (3, 32, 32)
        except DataError as error:
            refused += names(error, path)
    assert refused > 20


def test_damaged_arrays(tmp_path: Path):
    np.save(tmp_path / "whole.npy", np.random.default_rng(0).integers(0, 256, (24, 32, 5), dtype=np.uint8))
    whole, refused = (tmp_path / "whole.npy").read_bytes(), 0
    for number in range(300):
        path = tmp_path / f"{number}.npy"
        path.write_bytes(damaged(whole, random.Random(number)))
        try:
            assert load_image(path, 16, channels=5).shape == (5, 16, 16)
        except DataError as error:
            refused += names(error, path)
    assert refused > 20


def test_damaged_images_are_all_named_before_training(tmp_path: Path):
    whole = picture("jpg")
    paths = [tmp_path / f"{number}.jpg" for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(damaged(whole, random.Random(number)) if number % 3 else whole)
    bad = [path.name for path in paths if not _readable(path)]
    rows = np.arange(len(paths))
    problems = look(paths, None, 0, rows=rows, decoded=rows, threads=2, shared=True).problems
    with pytest.raises(DataError, match=f"; {len(bad)} cannot be used"):
        refuse(problems, tmp_path)
    listed = (tmp_path / "bad_images.txt").read_text()
    assert [name for name in bad if f"/{name}:" not in listed] == []


def _readable(path: Path) -> bool:
    try:
        load_image(path, 32)
    except DataError:
        return False
    return True


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_damaged_masks(tmp_path: Path, suffix: str):
    whole = picture(suffix, "L")
    for number in range(120):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(damaged(whole, random.Random(number)))
        try:
            assert mask_pixels(path, (32, 32), "crop").shape == (32, 32)
        except DataError as error:
            names(error, path)


def test_damaged_tables(tmp_path: Path):
    files = [f"{number}.jpg" for number in range(12)]
    for name in files:
        (tmp_path / name).write_bytes(picture("jpg"))
    rows = [f"{name},{'ant' if number % 2 else 'bee'},{number % 3 == 0}" for number, name in enumerate(files)]
    whole = ("image,label,is_valid\n" + "\n".join(rows)).encode()
    outside = tmp_path.parent / "outside.jpg"
    for number in range(400):
        (tmp_path / "labels.csv").write_bytes(
            damaged(whole, random.Random(number)).replace(b"3.jpg", b"../outside.jpg")
        )
        try:
            data = ImageData.from_csv(tmp_path, valid_col="is_valid" if number % 2 else None, num_workers=0)
            data.setup("fit")
        except FinetuneError as error:
            names(error, tmp_path)
    assert not outside.exists()


def test_damaged_checkpoints(tmp_path: Path):
    module = ImageClassifier("test_resnet", num_classes=3, weights=False)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    assert load(tmp_path / "whole.ckpt").num_classes == 3
    refused = 0
    for number in range(250):
        path = tmp_path / "damaged.ckpt"
        path.write_bytes(damaged(whole, random.Random(number)))
        try:
            load(path)
        except CheckpointError as error:
            refused += names(error, path)
    assert refused > 50


def test_damaged_names_of_mask_classes(tmp_path: Path):
    whole = "\n".join(["sky", "road", "car", "void"]).encode()
    for split in ("train", "valid"):
        for kind, suffix, mode in (("images", "jpg", "RGB"), ("masks", "png", "L")):
            (tmp_path / split / kind).mkdir(parents=True)
            (tmp_path / split / kind / f"0.{suffix}").write_bytes(picture(suffix, mode))
    for number in range(200):
        (tmp_path / "codes.txt").write_bytes(damaged(whole, random.Random(number)))
        try:
            data = ImageData.from_folder(tmp_path, masks="masks", codes=tmp_path / "codes.txt", num_workers=0)
            assert json.dumps(data.classes)
        except FinetuneError as error:
            names(error, tmp_path)
