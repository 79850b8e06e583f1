"""Images of more than eight bits have one scale for a whole data set, or are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_finetune import ImageData
from lightning_finetune.data.pixels.decode import load_image
from lightning_finetune.errors import DataError


def folder(root: Path, kind: type, *tops: float) -> Path:
    """Two classes of ramps, each up to one of ``tops``."""
    for place, top in enumerate(tops * 2):
        path = root / "ab"[place % 2] / f"{place}.tif"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray((np.linspace(0, top, 64 * 64).reshape(64, 64)).astype(kind)).save(path)
    return root


def brightest(data: ImageData) -> float:
    data.setup("fit")
    return max(batch["image"].max().item() for batch in (*data.train_dataloader(), *data.val_dataloader()))


def made(root: Path, **options) -> ImageData:
    return ImageData.from_folder(root, size=64, num_workers=0, batch_size=1, augment="none", **options)


@pytest.mark.parametrize(
    ("kind", "tops", "white"),
    [
        (np.uint16, (65535, 300), 65535),
        (np.float32, (1.0, 0.01), 1.0),
        (np.int32, (255, 3), 255),
        (np.int32, (60000, 3), 65535),
    ],
)
def test_one_scale_holds_for_all_where_nothing_else_can_be_meant(tmp_path, kind, tops, white):
    data = made(folder(tmp_path, kind, *tops))
    assert brightest(data) == pytest.approx(255 * max(tops) / white, abs=1)
    dark = load_image(tmp_path / "b/1.tif", 64, white=data.preprocessing()["white"])
    assert dark.max().item() == pytest.approx(255 * tops[1] / white, abs=1)


@pytest.mark.parametrize(
    ("kind", "tops", "white"),
    [
        (np.uint16, (4095, 900), 4095),
        (np.float32, (1.2, 0.5), 4),
        (np.int32, (1000, 5), 1000),
        (np.float32, (3e4, 5), 4e4),
    ],
)
def test_what_is_white_must_be_said_where_it_cannot_be_known(tmp_path, kind, tops, white):
    root = folder(tmp_path, kind, *tops)
    for stage in ("fit", "validate"):
        with pytest.raises(DataError, match="Say it, such as white="):
            made(root).setup(stage)
    with pytest.raises(DataError, match="white"):
        made(root).show_batch(1)
    data = made(root, white=white)
    assert brightest(data) == pytest.approx(255 * max(tops) / white, abs=1)
    assert data.preprocessing()["white"] == white


def test_images_of_several_depths_are_refused(tmp_path):
    folder(tmp_path, np.float32, 1.0), folder(tmp_path, np.uint16, 65535)
    Image.fromarray(np.zeros((64, 64), np.float32)).save(tmp_path / "a/float.tif")
    with pytest.raises(DataError, match="several: sixteen to 65535, float to 0"):
        made(tmp_path).setup("fit")


def test_a_single_image_without_a_scale_is_refused_by_name(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif.*white"):
        load_image(tmp_path / "a.tif", 8)
    assert load_image(tmp_path / "a.tif", 8, white=1.0).unique().tolist() == [128]
    broken = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(DataError, match="finite"):
        load_image(Image.fromarray(broken), 8, white=1.0)


def test_colours_whose_lower_bits_alone_are_used_are_not_read_as_black(tmp_path):
    """Pillow writes no such file, so its header is written here; it is PNG's with 16 bits a channel."""
    for name, top in (("dark", 4095), ("full", 65535)):
        for place in range(4):
            path = tmp_path / name / "ab"[place % 2] / f"{place}.png"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(deep_png(np.full((64, 64, 3), top, np.uint16)))
    assert brightest(made(tmp_path / "full")) == 255
    with pytest.raises(DataError, match="lower ones"):
        made(tmp_path / "dark").setup("fit")


def deep_png(pixels: np.ndarray) -> bytes:
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_later_images_do_not_change_the_scale(tmp_path):
    folder(tmp_path / "train", np.int32, 255, 9), folder(tmp_path / "valid", np.int32, 255, 9)
    folder(tmp_path / "test", np.int32, 60000, 9)
    data = made(tmp_path)
    data.setup("fit")
    with pytest.raises(DataError, match="white: expected values as of the images before"):
        data.setup("test")


@pytest.mark.parametrize("white", [0, -1, float("nan"), float("inf")])
def test_white_is_a_number_above_nought(tmp_path, white):
    with pytest.raises(DataError, match="white: expected"):
        made(folder(tmp_path, np.uint16, 65535, 5), white=white)


@pytest.mark.parametrize("white", [None, 1.0])
@pytest.mark.parametrize(("value", "words"), [(-0.5, "from 0 on, which is black, got -0.5"), (np.nan, "finite values")])
def test_values_that_would_be_black_or_nothing_are_named_with_the_file(tmp_path, white, value, words):
    root = folder(tmp_path, np.float32, 1.0, 0.5)
    pixels = np.full((64, 64), 0.5, np.float32)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(root / "b/1.tif")
    with pytest.raises(DataError, match=rf"1\.tif: expected .*{words}"):
        made(root, white=white).setup("fit")
