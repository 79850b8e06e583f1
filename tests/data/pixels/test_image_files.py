"""Image files may be anybody's: what is opened, and what is not."""

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_finetune import ImageData, ImageItems
from lightning_finetune.data.pixels.decode import decode_fully, image_size, load_image
from lightning_finetune.data.pixels.image_files import FORMATS, LARGEST, is_image
from lightning_finetune.data.pixels.mask_values import mask_values
from lightning_finetune.errors import DataError
from tests.data.images import fill, picture

READERS = [decode_fully, image_size, lambda path: load_image(path, 32), mask_values]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n0 0 50 50 rectfill\n%%EOF\n"


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_a_folder_and_a_device_are_refused_by_name_at_once(tmp_path: Path, read):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for path, words in (("pipe.jpg", "a pipe"), ("folder.jpg", "a folder"), ("/dev/zero", "a device")):
        with pytest.raises(DataError, match=f"{path}: expected an image, but it is {words}"):
            read(tmp_path / path)


@pytest.mark.parametrize("read", READERS)
def test_a_format_that_starts_another_program_is_none(tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch):
    def started(*args: object, **options: object) -> None:
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    (tmp_path / "a.jpg").write_bytes(EPS)
    with pytest.raises(DataError, match=r"a\.jpg: expected an image, but it is no image"):
        read(tmp_path / "a.jpg")


def test_a_pipe_among_images_ends_the_look_before_training(tmp_path: Path):
    for name in ("ant", "bee"):
        fill(tmp_path / name, 3)
    os.mkfifo(tmp_path / "ant/pipe.jpg")
    data = ImageData.from_folder(tmp_path, num_workers=0)
    with pytest.raises(DataError, match=r"ant/pipe\.jpg: expected an image, but it is a pipe"):
        data.setup("fit")
    with pytest.raises(DataError, match="cannot be used"):
        data.summary()


def with_exif(jpeg: bytes, entry: bytes) -> bytes:
    """A JPEG with one entry of EXIF."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


ENTRIES = {
    "text": struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0"),
    "nothing by nothing": struct.pack("<HHII", 0x0112, 5, 1, 26) + bytes(12),
    "out of range": struct.pack("<HHIHH", 0x0112, 3, 1, 99, 0),
    "beyond the end": struct.pack("<HHII", 0x0112, 4, 2**30, 2**30),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.filterwarnings("ignore")  # Pillow has its own to say
def test_a_whole_photo_with_damaged_exif_is_seen_as_it_lies(tmp_path: Path, entry: str):
    picture(1, (32, 48)).convert("L").save(tmp_path / "whole.jpg")
    (tmp_path / "a.jpg").write_bytes(with_exif((tmp_path / "whole.jpg").read_bytes(), ENTRIES[entry]))
    assert image_size(tmp_path / "a.jpg") == (32, 48)
    assert load_image(tmp_path / "a.jpg", 16).equal(load_image(tmp_path / "whole.jpg", 16))
    assert (mask_values(tmp_path / "a.jpg") == mask_values(tmp_path / "whole.jpg")).all()


def test_exif_of_a_png_that_is_none_does_not_matter(tmp_path: Path):
    picture(1, (32, 48)).convert("L").save(tmp_path / "a.png", exif=b"Exif\0\0garbage")
    assert image_size(tmp_path / "a.png") == (32, 48)
    assert mask_values(tmp_path / "a.png").shape == (32, 48)
    decode_fully(tmp_path / "a.png")


@pytest.mark.parametrize("read", READERS)
def test_an_archive_is_no_array_and_one_that_would_fill_memory_is_not_read(tmp_path: Path, read):
    np.savez(tmp_path / "a.npz", pixels=np.zeros((4, 4), np.uint8))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match="expected one array"):
        read(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((4, 4), np.uint8))
    os.truncate(tmp_path / "b.npy", LARGEST + 1)
    with pytest.raises(DataError, match=r"b\.npy: expected an array of at most"):
        read(tmp_path / "b.npy")


def test_an_image_in_memory_stays_as_it_is(tmp_path: Path):
    picture(1, (400, 600)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        load_image(image, 16)
        assert image.size == (600, 400)


@pytest.mark.filterwarnings("ignore")
def test_more_pixels_than_pillow_allows_are_refused_with_the_way_out(tmp_path: Path):
    Image.new("1", (14_000, 14_000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"196000000 pixels.* Cut it into pieces, or set PIL.Image.MAX_IMAGE_PIXELS"):
        image_size(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["png", "jpg", "jp2", "bmp", "gif", "tif", "webp", "ppm", "tga", "ico"])
def test_formats_of_photos_are_read(tmp_path: Path, name: str):
    path = tmp_path / f"a.{name.upper()}"
    picture(1, (32, 32)).save(path)
    assert is_image(path)
    assert load_image(path, 16).shape == (3, 16, 16)


def test_no_format_outside_the_list_is_known():
    assert {"EPS", "PDF", "WMF", "MPEG", "HDF5", "FITS"}.isdisjoint(FORMATS)
    others = {name for name, kind in Image.registered_extensions().items() if kind not in FORMATS}
    assert not any(is_image(f"a{name}") for name in others)


def test_what_lies_outside_of_the_root_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("ant", "bee"):
        fill(tmp_path / "root" / name, 3)
    data = ImageData.from_folder(tmp_path / "root", num_workers=0)
    data.setup("fit")
    assert "outside" not in caplog.text
    fill(tmp_path / "elsewhere", 2)
    (tmp_path / "root/ant/linked.jpg").symlink_to(tmp_path / "elsewhere/000.jpg")
    (tmp_path / "root/wasp").symlink_to(tmp_path / "elsewhere")
    ImageData.from_folder(tmp_path / "root", num_workers=0).setup("fit")
    assert "3 images lie outside of" in caplog.text
    caplog.clear()
    files = [*sorted((tmp_path / "root/bee").iterdir()), *sorted((tmp_path / "elsewhere").iterdir())]
    items = ImageItems.from_lists(files, tmp_path / "root").split_by_index([0]).label_from_lists(list("abaab"))
    items.datamodule(num_workers=0).setup("validate")
    assert "2 images lie outside of" in caplog.text
