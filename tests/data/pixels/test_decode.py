"""Pixels of every kind of file that people have."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_finetune.data.pixels.decode import decode_fully, image_pixels, image_size, load_image, mask_pixels
from lightning_finetune.errors import DataError
from tests.data.images import picture

GREY16 = Image.fromarray(np.full((8, 8), 0x8080, dtype=np.uint16))


def palette() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


def clear_palette() -> Image.Image:
    image = palette()
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("RGB", (8, 8), (200, 100, 50)), "png", (200, 100, 50)),
        (Image.new("L", (8, 8), 77), "jpg", (77, 77, 77)),
        (Image.new("1", (8, 8), 1), "png", (255, 255, 255)),
        (palette(), "png", (10, 200, 30)),
        (clear_palette(), "png", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "png", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (200, 100, 50, 255)), "webp", (200, 100, 50)),
        (Image.new("LA", (8, 8), (0, 128)), "png", (127, 127, 127)),
        (GREY16, "png", (128, 128, 128)),
        (GREY16, "tiff", (128, 128, 128)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpg", (254, 0, 0)),
        (Image.new("RGB", (8, 8), (200, 100, 50)), "gif", (200, 100, 50)),
        (Image.new("RGB", (8, 8), (200, 100, 50)), "bmp", (200, 100, 50)),
    ],
)
def test_every_mode_becomes_the_colour_that_is_seen(tmp_path: Path, image: Image.Image, suffix: str, expected):
    path = tmp_path / f"image.{suffix}"
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    pixels = load_image(path, 4)
    assert (pixels.shape, pixels.dtype) == ((3, 4, 4), torch.uint8)
    assert np.abs(pixels.float().mean((1, 2)).numpy() - expected).max() <= 2


def test_a_rotated_photo_is_upright_at_every_scale(tmp_path: Path):
    upright = picture(1, (600, 400))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be seen, turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.jpg", exif=exif, quality=95)
    assert image_size(tmp_path / "side.jpg") == (600, 400)
    for size in ((300, 200), (60, 40)):
        seen = load_image(tmp_path / "side.jpg", size).float()
        assert (seen - load_image(upright, size).float()).abs().mean() < 3


@pytest.mark.parametrize("size", [16, 50, 64, (48, 100)])
def test_decoding_at_reduced_scale_looks_like_decoding_all(tmp_path: Path, size):
    image = picture(3, (480, 640))
    image.save(tmp_path / "a.jpg", quality=95)
    reduced, full = load_image(tmp_path / "a.jpg", size).float(), load_image(image, size).float()
    assert (reduced - full).abs().mean() < 2
    assert (reduced - full).abs().max() < 16


def test_crop_covers_the_size_and_keeps_proportions():
    stripes = np.zeros((10, 40, 3), dtype=np.uint8)
    stripes[:, 10:20] = 100
    stripes[:, 20:30] = 200
    image = Image.fromarray(stripes)
    assert image_pixels(image, (10, 10), "crop", (1 / 3, 0.5))[..., 0].tolist() == [[100] * 10] * 10
    assert image_pixels(image, (10, 20), "crop")[..., 0].tolist() == [[100] * 10 + [200] * 10] * 10
    assert image_pixels(image, (10, 10), "crop", (1.0, 0.0)).max() == 0
    squished = image_pixels(image, (10, 4), "squish")[0, :, 0].tolist()
    assert squished == sorted(squished[:3]) + squished[3:]
    assert len(set(squished)) > 2


@pytest.mark.parametrize("size", [(7, 13), (224, 224), (31, 500)])
def test_any_proportion_gives_exactly_the_size(size: tuple[int, int]):
    for shape in ((13, 7), (375, 500), (499, 500), (1, 1)):
        assert image_pixels(picture(0, shape), size, "crop", (0.99, 0.99)).shape == (*size, 3)


def test_arrays_and_tensors_are_images_too():
    pixels = np.asarray(picture(5, (20, 30)))
    expected = load_image(picture(5, (20, 30)), 10)
    assert torch.equal(load_image(pixels, 10), expected)
    assert torch.equal(load_image(torch.from_numpy(pixels.copy()).permute(2, 0, 1), 10), expected)
    assert torch.equal(load_image(pixels[..., 0], 10)[0], expected[0])
    with pytest.raises(DataError, match="uint8"):
        load_image(pixels / 255, 10)


def test_mask_ids_stay_exact(tmp_path: Path):
    ids = np.random.default_rng(0).choice([0, 3, 11, 255], size=(90, 120)).astype(np.uint8)
    Image.fromarray(ids).save(tmp_path / "mask.png")
    assert np.array_equal(mask_pixels(tmp_path / "mask.png", (90, 120), "crop"), ids)
    assert set(np.unique(mask_pixels(tmp_path / "mask.png", (37, 41), "crop"))) == {0, 3, 11, 255}
    coded = Image.fromarray(ids, "P")
    coded.putpalette([7, 8, 9] * 256)
    coded.save(tmp_path / "palette.png")
    assert np.array_equal(mask_pixels(tmp_path / "palette.png", (90, 120), "crop"), ids)


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path):
    whole = tmp_path / "whole.jpg"
    picture(0, (200, 300)).save(whole)
    for name, content, reason in [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"no image at all", "no image"),
        ("cut.jpg", whole.read_bytes()[:-200], "truncated"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        for read in (decode_fully, lambda file: load_image(file, 32)):
            with pytest.raises(DataError, match=reason) as caught:
                read(path)
            assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        load_image(tmp_path / "absent.jpg", 32)
    decode_fully(whole)


def test_decoding_at_reduced_scale_keeps_the_detail_that_the_size_can_show(tmp_path: Path):
    stripes = np.zeros((480, 640, 3), dtype=np.uint8)
    stripes[:, np.arange(640) % 8 < 4] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.jpg", quality=95)
    assert load_image(tmp_path / "stripes.jpg", (240, 320)).float().std() > 80
    Image.fromarray(stripes.swapaxes(0, 1)).save(tmp_path / "upright.jpg", quality=95)
    assert load_image(tmp_path / "upright.jpg", (320, 240)).float().std() > 80


def many(channels: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """An array whose channel k is 10 k everywhere."""
    return np.broadcast_to(10 * np.arange(channels, dtype=np.uint8), (*size, channels)).copy()


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_every_channel_of_an_array_arrives_at_its_place(tmp_path, channels):
    np.save(tmp_path / "a.npy", many(channels))
    for source in (many(channels), tmp_path / "a.npy", str(tmp_path / "a.npy")):
        pixels = load_image(source, (10, 15), channels=channels)
        assert pixels.shape == (channels, 10, 15)
        assert pixels.amin((1, 2)).tolist() == pixels.amax((1, 2)).tolist() == [10 * k for k in range(channels)]
    assert image_size(tmp_path / "a.npy") == (20, 30)


def test_many_channels_are_cropped_as_three_are():
    pixels = np.asarray(picture(3, (40, 70)))
    five = np.concatenate([pixels, pixels[..., :2]], axis=-1)
    wide = image_pixels(five, (16, 16), "crop", (0.9, 0.1), channels=5)
    assert (wide[..., :3] == image_pixels(pixels, (16, 16), "crop", (0.9, 0.1))).all()


def test_grey_is_one_channel_of_any_file(tmp_path):
    picture(1, (20, 20)).convert("L").save(tmp_path / "grey.png")
    picture(1, (20, 20)).save(tmp_path / "colour.png")
    grey, colour = (load_image(tmp_path / name, 20, channels=1) for name in ("grey.png", "colour.png"))
    assert grey.shape == (1, 20, 20)
    assert torch.equal(grey, colour)


def test_another_number_of_channels_is_refused_by_name(tmp_path):
    np.save(tmp_path / "five.npy", many(5))
    picture(1, (20, 20)).save(tmp_path / "rgb.png")
    for file, channels in (("five.npy", 3), ("five.npy", 12), ("rgb.png", 5)):
        for read in (lambda path: decode_fully(path, channels), lambda path: load_image(path, 10, channels=channels)):  # noqa: B023
            with pytest.raises(DataError, match=rf"{file}: expected an image of {channels} channels"):
                read(tmp_path / file)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))]
)
def test_an_array_that_is_no_image_is_named(tmp_path, array):
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(DataError, match=r"odd\.npy: expected an image"):
        load_image(tmp_path / "odd.npy", 8)


def test_an_array_file_executes_nothing(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"evil\.npy"):
        decode_fully(tmp_path / "evil.npy")
